"""Files of a network, found in a directory or on the Hub.

Nothing is unpickled: weights in .bin, .pt or .ckpt files are refused with the way to convert them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from nelbo.base.arguments import check_path
from nelbo.base.errors import NelboError
from nelbo.base.suggestions import directories_near, listed

CONFIG_FILE = "config.json"
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

_HOW_TO_CONVERT = (
    "nelbo reads safetensors only, because opening a pickle runs the code in it. If you trust the "
    "source of .bin weights, convert them once with the diffusers class that config.json names: "
    "CLASS.from_pretrained(DIR, use_safetensors=False).save_pretrained(DIR)"
)


def locate(path: str | os.PathLike[str], subfolder: str | None, *names: str) -> Path:
    """The first of the named files of a network that exists.

    Args:
        path: directory, or Hub id if there is no such directory.
        subfolder: where in it the network is.
        *names: names of files, the preferred one first.
    """
    check_path("path", path)
    local = Path(path)
    if local.suffix in PICKLE_SUFFIXES:
        raise pickle_refused(str(local))
    if local.is_dir():
        return _find(local / subfolder if subfolder else local, names)
    if local.exists():
        raise NelboError(f"{local} is a file; give the directory of a run, pipeline or network")
    if not is_hub_id(str(path)):
        raise missing_directory(local)
    from nelbo.networks.hub import download  # long to import

    return download(
        str(path), subfolder, names, f". {_HOW_TO_CONVERT}" if _are_weights(names) else ""
    )


def is_hub_id(path: str) -> bool:
    """Whether a path can be a Hub id: owner/name, where owner is not a local folder.

    A missing path in a folder that exists is taken for a mistyped local path.
    """
    return bool(_HUB_ID.fullmatch(path)) and not Path(path).parent.is_dir()


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
