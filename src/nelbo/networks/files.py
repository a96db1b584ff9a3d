"""Files of a network: found in a directory or on the Hub, written whole or not at all.

Nothing is unpickled: weights in .bin, .pt or .ckpt files are refused with the way to convert them.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from nelbo.errors import NelboError
from nelbo.networks.hub import download, is_hub_id
from nelbo.suggestions import directories_near, listed

CONFIG_FILE = "config.json"
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")

# What `atomic_file` calls a file until it is whole, and what a killed process leaves of one.
TEMPORARY_NAME = re.compile(r"\.(.+)\.[a-z0-9_]{8}")
_HOW_TO_CONVERT = (
    "nelbo reads safetensors only, because opening a pickle runs the code in it. If you trust the "
    "source of .bin weights, convert them once with the diffusers class that config.json names: "
    "CLASS.from_pretrained(DIR, use_safetensors=False).save_pretrained(DIR)"
)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place once the block succeeds.

    It is on the disk before it does, so that a file is never there without its content.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner reads; a saved network is an ordinary file.
        temporary.chmod(0o666 & ~_umask())
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    if os.name == "nt" and path.is_dir():  # no such thing there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reason(error: OSError | SafetensorError) -> str:
    """Why a file could not be written, without what the library puts before it."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error).rpartition(": ")[2]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise NelboError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise NelboError(f"{path} must hold a JSON object, found {type(content).__name__}")
    return content


def to_json(content: Any, encoding: str = "utf-8", **options: Any) -> str:
    """JSON text that every reader takes, and that `encoding` has all characters of.

    Numbers that are not finite become null, for which JSON has no other name.

    Args:
        content: what to write.
        encoding: of the file or stream that it is for; text that has others is escaped.
        **options: those of `json.dumps`.
    """
    content = _finite(content)
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, **options)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(content, allow_nan=False, **options)
    return text


def _finite(content: Any) -> Any:
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content


def locate(path: str | os.PathLike[str], subfolder: str | None, *names: str) -> Path:
    """The first of the named files of a network that exists.

    Args:
        path: directory, or Hub id if there is no such directory.
        subfolder: where in it the network is.
        *names: names of files, the preferred one first.
    """
    local = Path(path)
    if local.suffix in PICKLE_SUFFIXES:
        raise pickle_refused(str(local))
    if local.is_dir():
        return _find(local / subfolder if subfolder else local, names)
    if local.exists():
        raise NelboError(f"{local} is a file; give the directory of a run, pipeline or network")
    if not is_hub_id(str(path)):
        raise missing_directory(local)
    return download(
        str(path), subfolder, names, f". {_HOW_TO_CONVERT}" if _are_weights(names) else ""
    )


def missing_directory(path: Path) -> NelboError:
    """The error for a path that is not there, with those of nearly its name."""
    near = directories_near(path)
    return NelboError(
        f"no directory {path}{near}" + ("" if near else "; models of the Hub are named owner/name")
    )


def pickle_refused(path: str) -> NelboError:
    """The error for weights that would have to be unpickled."""
    return NelboError(f"{path} is a pickle. {_HOW_TO_CONVERT}")


def _find(directory: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (directory / name).is_file():
            return directory / name
    hint = ""
    if _are_weights(names):
        entries = sorted(directory.iterdir()) if directory.is_dir() else []
        for entry in entries:
            if entry.suffix in PICKLE_SUFFIXES:
                raise pickle_refused(str(entry))
        others = [entry.name for entry in entries if entry.suffix == ".safetensors"]
        if others:
            hint = (
                f"; it does hold {', '.join(others)}: rename a copy of the one to read to "
                f"{names[0]}, or in Python pass its variant to from_pretrained"
            )
    elif directory.is_dir():
        below = sorted(file.parent.name for file in directory.glob(f"*/{names[0]}"))
        hint = f"; its folders {listed(below)} do" if below else ""
    raise NelboError(
        f"{directory} holds no {names[0]}, so it is not the directory of a model{hint}"
    )


def _are_weights(names: tuple[str, ...]) -> bool:
    return names[0].endswith(".safetensors")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
