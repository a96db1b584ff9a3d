"""Copies of models, for commands that write beside a model that is to stay as it is."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from nelbo.base.errors import NelboError
from nelbo.commands.groups import check_new
from nelbo.formats.model_directory import ships
from nelbo.runs.run_directory import AUTOENCODER_RUN, TENSORBOARD, TRAINING


def copy_model(source: str | Path, out: Path) -> None:
    """Copy the directory of a model, as it is, without the state of its training.

    The copy is there whole or not at all.

    Args:
        source: the directory of a run or pipeline.
        out: the copy, a new or empty directory.

    Raises:
        NelboError: where nothing can be written.
    """
    source = Path(source)
    # What of a run's directory is there to train on, not to use the model.
    to_train_on = (TRAINING, TENSORBOARD, AUTOENCODER_RUN)

    def left_out(folder: str, names: list[str]) -> list[str]:
        if Path(folder) != source:
            return []
        return [name for name in names if name in to_train_on or name.startswith(".")]

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
            copy = Path(beside) / out.name
            shutil.copytree(source, copy, ignore=left_out)
            if out.is_dir():
                out.rmdir()  # not every system moves onto a directory, an empty one either
            copy.rename(out)
    except OSError as error:
        raise NelboError(f"cannot write to {out}: {error.strerror or error}") from error


def check_copy(source: str | Path, out: Path) -> None:
    """Raise `NelboError` unless a model can be copied to `out`, a new directory outside of it."""
    check_new(out)
    if out.resolve().is_relative_to(Path(source).resolve()):
        raise NelboError(f"--out {out} lies within {source}: give a place outside of it")


def check_not_shipped(path: str | Path, stored: str) -> None:
    """Raise `NelboError` for a checkpoint that ships with nelbo, which nothing is written into.

    Args:
        path: the directory of a model.
        stored: what the command would write there.
    """
    if ships(path):
        raise NelboError(
            f"the checkpoint {Path(path).name} comes with nelbo and stays as it is: give --out DIR "
            f"for a copy with {stored}, and use DIR from then on"
        )
