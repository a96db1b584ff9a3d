"""Files that are written whole or not at all, and JSON that every reader accepts."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from nelbo.base.devices import is_device
from nelbo.base.errors import NelboError, UnwritableError, explained

# The name of a file of `atomic_file` until it is whole, which a killed process leaves behind.
TEMPORARY_NAME = re.compile(r"\.(.+)\.[a-z0-9_]{8}")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place once the block succeeds.

    It is flushed to disk first, so that the file never exists without its content.
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


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """`atomic_file` for what was asked for at a path, whose folder is made where it is missing.

    A link leads to the file that is written.

    Raises:
        NelboError: it cannot be written.
    """
    if is_device(path):
        raise NelboError(f"cannot write {path}: it is a device or a pipe; nothing was written")
    if path.is_symlink():
        path = path.resolve()  # the link stays
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:
        raise NelboError(f"cannot write {path}: {reason(error)}; nothing was written") from error


@contextmanager
def writing(path: Path, after: str = "") -> Iterator[None]:
    """Context manager for what writes to a path.

    Raises:
        UnwritableError: it cannot be written; `after` follows the reason.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UnwritableError(f"cannot write to {path}: {reason(error)}{after}") from error


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
    """Why a file could not be written, without the prefix of the library."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error).rpartition(": ")[2]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; errors as `read_mapping`."""
    return read_mapping(path, "JSON", json.loads)


def read_mapping(
    path: Path, language: str, parse: Callable[[str], Any], damaged: type[Exception] = ValueError
) -> dict[str, Any]:
    """The mapping in a file of a language, whose parser raises `damaged` or a `ValueError`.

    Raises:
        NelboError: it is missing, not of the language, or holds something else.
    """
    what = f"{path} is not readable as {language}"
    with explained(what, OSError, ValueError, RecursionError, damaged):
        content = parse(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise NelboError(f"{path} must hold a mapping, found {type(content).__name__}")
    return content


def write_json(path: Path, content: Mapping[str, Any], **options: Any) -> None:
    """Write a JSON file that appears whole or not at all.

    Args:
        path: the file, whose folder is made where it is missing.
        content: what to write.
        **options: those of `json.dumps`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        text = to_json(content, indent=2, **options)
        temporary.write_text(text + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file of these rows, the first of them its header, whole or not at all.

    Raises:
        NelboError: it cannot be written.
    """
    with new_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def to_json(content: Any, encoding: str = "utf-8", **options: Any) -> str:
    """JSON text that every reader accepts, with only characters of `encoding`.

    Numbers that are not finite become null, since JSON has no such numbers.

    Args:
        content: what to write.
        encoding: of the file or stream; other characters are escaped.
        **options: those of `json.dumps`.
    """
    content = finite(content)
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, **options)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(content, allow_nan=False, **options)
    return text


def finite(content: Any) -> Any:
    """The content with None for each number in it that is not finite."""
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, Mapping):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
