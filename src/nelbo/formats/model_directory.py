"""The directory that is meant by what a model is called: a path, or a checkpoint that ships."""

from __future__ import annotations

import os
from pathlib import Path

from nelbo.base.arguments import check_path
from nelbo.base.errors import NelboError
from nelbo.base.suggestions import did_you_mean

# What makes a directory that of a pipeline; written last.
INDEX_FILE = "model_index.json"
# Nelbo's own notes on a model; an autoencoder alone has them and no index.
NELBO_FILE = "nelbo.json"
# What a model is, for people.
CARD_FILE = "README.md"
# The checkpoints that ship with the package, a pipeline directory each.
CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
# The folder of an autoencoder.
AUTOENCODER = "vae"


def holds_autoencoder_alone(path: str | os.PathLike[str]) -> bool:
    """Whether the run of an autoencoder alone is there, whose notes are written last."""
    where = Path(path)
    whole = (where / AUTOENCODER).is_dir() and (where / NELBO_FILE).is_file()
    return whole and not (where / INDEX_FILE).exists()


def available() -> list[str]:
    """The names of the checkpoints that ship with the package."""
    return sorted(path.parent.name for path in CHECKPOINTS.glob(f"*/{INDEX_FILE}"))


def checkpoint_path(name: str) -> Path:
    """The pipeline directory of a checkpoint that ships.

    Raises:
        NelboError: there is none of this name.
    """
    names = available()
    if not isinstance(name, str) or name not in names:
        known = f"there are {', '.join(names)}" if names else "this version ships none"
        raise NelboError(
            f"no checkpoint {name!r} comes with nelbo: {known}; a run or pipeline directory is "
            "loaded with nelbo.load"
        )
    return CHECKPOINTS / name


def resolve(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The directory of a checkpoint for its name; anything else, and what is a path here, as is.

    Raises:
        NelboError: what is nearly the name of a checkpoint, and neither that nor a path; or the
            name of one that a folder without a model hides.
    """
    check_path("path", path)
    if not isinstance(path, str):
        return path
    if not Path(path).exists():
        if path in available():
            return str(checkpoint_path(path))
        near = did_you_mean(path, available())
        if near and "/" not in path:
            raise NelboError(f"no checkpoint {path!r} comes with nelbo{near}")
    elif path in available() and not _holds_model(Path(path)):
        raise NelboError(
            f"there is a folder {path!r} here without {INDEX_FILE}, which hides the checkpoint of "
            "that name that comes with nelbo: rename the folder, work in another directory, or use "
            f"nelbo.pretrained({path!r}) in Python"
        )
    return path


def ships(path: str | os.PathLike[str]) -> bool:
    """Whether a directory is that of a checkpoint that comes with nelbo, and so stays as it is.

    One of them that is a link to elsewhere is one of them.
    """
    shelf = CHECKPOINTS.resolve()
    return shelf in (Path(path).parent.resolve(), Path(path).resolve().parent)


def _holds_model(directory: Path) -> bool:
    return any((directory / name).is_file() for name in (INDEX_FILE, NELBO_FILE))
