"""The directory that is meant by what a model is called: a path, or a checkpoint that ships."""

from __future__ import annotations

import os
from pathlib import Path

from nelbo.errors import NelboError
from nelbo.suggestions import did_you_mean

# What makes a directory that of a pipeline; written last.
INDEX_FILE = "model_index.json"
# Nelbo's own notes on a model; an autoencoder alone has them and no index.
NELBO_FILE = "nelbo.json"
# The checkpoints that ship with the package, a pipeline directory each.
CHECKPOINTS = Path(__file__).parent / "checkpoints"


def available() -> list[str]:
    """The names of the checkpoints that ship with the package."""
    return sorted(path.parent.name for path in CHECKPOINTS.glob(f"*/{INDEX_FILE}"))


def checkpoint_path(name: str) -> Path:
    """The pipeline directory of a checkpoint that ships.

    Raises:
        NelboError: there is none of this name.
    """
    names = available()
    if name not in names:
        known = f"there are {', '.join(names)}" if names else "this version ships none"
        raise NelboError(
            f"no checkpoint {name!r} comes with nelbo: {known}; a run or pipeline directory is "
            "loaded with nelbo.load"
        )
    return CHECKPOINTS / name


def resolve(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The directory of a checkpoint for its name; anything else, and what is a path here, as is.

    Raises:
        NelboError: what is nearly the name of a checkpoint, and neither that nor a path.
    """
    if isinstance(path, str) and not Path(path).exists():
        if path in available():
            return str(checkpoint_path(path))
        near = did_you_mean(path, available())
        if near and "/" not in path:
            raise NelboError(f"no checkpoint {path!r} comes with nelbo{near}")
    return path
