"""Copies of models, for commands that write beside a model that is to stay as it is."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from nelbo.base.errors import NelboError
from nelbo.commands.groups import check_new, check_out
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


def check_place(source: str | Path, out: Path | None, file: str, stored: str) -> None:
    """Raise `NelboError` unless a file can be written into a copy of a model, or into the model.

    Args:
        source: the directory of the model.
        out: that of the copy, which is to be a new one outside of it; None for the model itself,
            which is not to be one that ships with nelbo.
        file: its name.
        stored: what it holds.
    """
    if out is not None:
        check_new(out)
        if out.resolve().is_relative_to(Path(source).resolve()):
            raise NelboError(f"--out {out} lies within {source}: give a place outside of it")
        return
    if ships(source):
        raise NelboError(
            f"the checkpoint {Path(source).name} comes with nelbo and stays as it is: give --out "
            f"DIR for a copy with {stored}, and use DIR from then on"
        )
    check_out(Path(source) / file, "RUN")
