"""Copies of models, to write beside a model that is to stay as it is."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from nelbo.base.files import writing
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

    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
            copy = Path(beside) / out.name
            shutil.copytree(source, copy, ignore=left_out)
            if out.is_dir():
                out.rmdir()  # not every system moves onto a directory, an empty one either
            copy.rename(out)
