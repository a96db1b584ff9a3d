"""A run on disk: a diffusers pipeline with the record of its training beside it.

model_index.json, unet/, scheduler/    the pipeline, with vae/ (vqvae/ without text), text_encoder/
                                       and tokenizer/ of a latent one; an autoencoder's run has vae/
                                       alone. They hold the averaged weights
nelbo.json                             data levels, shape, data source, settings, versions
config.yaml                            all settings, to train again with --config
training/                              checkpoints to resume from, snapshots
level_profile.safetensors              what each level costs, once it has been fitted
metrics.jsonl                          one line a logged step
readings.jsonl                         bounds of held-out images, read now and then
evaluation.json                        the bound of each evaluated split
samples/                               image grids
report.html                            the run as a page
autoencoder/                           the run of the first stage of a latent one that has two

A run that is to replace another begins in a hidden directory inside of it and takes its place with
its first checkpoint.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from nelbo.base.arguments import check_path
from nelbo.base.errors import NelboError
from nelbo.base.files import TEMPORARY_NAME, read_json, writing
from nelbo.base.locks import lock
from nelbo.base.suggestions import directories_near
from nelbo.diffusion.profile import PROFILE_FILE
from nelbo.formats import INDEX_FILE, NELBO_FILE, write_json
from nelbo.formats.notes import read_notes
from nelbo.networks.denoisers import DENOISERS
from nelbo.runs.checkpoints import VALIDATION
from nelbo.runs.replacing import GROWING, STAGES, WINNING, finish_replacing, is_replaced
from nelbo.runs.step_file import StepFile

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
READINGS_FILE = "readings.jsonl"
EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "report.html"
SAMPLES = "samples"
TRAINING = "training"
TENSORBOARD = "tensorboard"
AUTOENCODER_RUN = "autoencoder"
_OWN = (
    INDEX_FILE,
    NELBO_FILE,
    CONFIG_FILE,
    PROFILE_FILE,
    METRICS_FILE,
    READINGS_FILE,
    EVALUATION_FILE,
    REPORT_FILE,
    SAMPLES,
    TRAINING,
    TENSORBOARD,
    *(each.folder for each in DENOISERS),
    "scheduler",
    "vae",
    "vqvae",
    "text_encoder",
    "tokenizer",
    "controlnet",
    AUTOENCODER_RUN,
)


class RunDirectory:
    """The files of one run.

    Args:
        path: the directory; `make` makes it.
        whole: the run that this one is a stage of, where `path` is within its directory.
    """

    def __init__(self, path: str | Path, whole: RunDirectory | None = None) -> None:
        self._path = Path(path)
        self._replaces: Path | None = None
        self._whole = whole

    @property
    def path(self) -> Path:
        """The directory."""
        return self._path if self._whole is None else self._whole.path / self._path

    @property
    def whole(self) -> RunDirectory:
        """The run that this one is a stage of, or itself."""
        return self if self._whole is None else self._whole

    def make(self, *, overwrite: bool = False) -> Self:
        """Make the directory of a new run, and return it.

        Args:
            overwrite: replace the run that is there once this one is `establish`ed; files that are
                no part of a run stay.

        Raises:
            NelboError: a file, another run or other files are there, or the directory cannot be
                written.
        """
        path = self.path
        with writing(path):
            finish_replacing(path, _OWN)
            taken = self.check_free(path, overwrite=overwrite)
            path.mkdir(parents=True, exist_ok=True)
            if taken:
                self._replaces, self._path = path, path / GROWING
                self.path.mkdir()
            self.samples.mkdir()
            self.metrics.path.touch()
        return self

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make or go on with the run while no other process does; the directory is made.

        Raises:
            NelboError: another process does, or the directory cannot be made.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with lock(self.path, wait=False) as free:
            if not free:
                raise NelboError(
                    f"{self.path} is being trained by another process: wait until it ends, or give "
                    "another directory"
                )
            yield

    @staticmethod
    def check_free(path: str | Path, *, overwrite: bool = False) -> list[str]:
        """What of a run is in a directory that a new one may be made in, or replace with it.

        Raises:
            NelboError: as `make`, before anything is written.
        """
        where = Path(path)
        try:
            str(where.absolute()).encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            raise NelboError(
                f"{shown} is not UTF-8, and weights cannot be read back from such a path: give the "
                "run another directory"
            ) from error
        if where.exists() and not where.is_dir():
            raise NelboError(f"{path} is a file; give a new directory for the run")
        found = sorted(p.name for p in where.iterdir()) if where.is_dir() else []
        found = [name for name in found if name not in STAGES]
        taken = [name for name in _OWN if name in found]
        if taken and not overwrite:
            raise NelboError(
                f"{path} already holds a run ({', '.join(taken[:3])}); go on with it with "
                "--resume, choose another directory, or replace it with --overwrite"
            )
        if found and not taken:
            raise NelboError(
                f"{path} holds other files ({', '.join(found[:3])}); give a new or empty "
                "directory for the run"
            )
        return taken

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """The run that is in a directory, or its settings, where it is at its first stage.

        Raises:
            NelboError: there is none.
        """
        check_path("run", path)
        if is_replaced(Path(path)):
            with lock(Path(path), wait=False) as free:
                if free:  # nobody is at it
                    finish_replacing(Path(path), _OWN)
        run = cls(path)
        if not run.has_model and not run.stage(AUTOENCODER_RUN).path.is_dir():
            near = "" if Path(path).is_dir() else directories_near(Path(path))
            raise NelboError(f"{path} holds no run: there is no {NELBO_FILE}{near}")
        return run

    def stage(self, name: str) -> RunDirectory:
        """A run of its own within this one; it is there once it is made."""
        return RunDirectory(name, self)

    def make_stage(self, name: str) -> RunDirectory:
        """An empty stage, in place of what was there."""
        run = self.stage(name)
        with writing(run.path):
            if run.path.exists():
                shutil.rmtree(run.path)
            run.samples.mkdir(parents=True)
            run.metrics.path.touch()
        return run

    @property
    def has_model(self) -> bool:
        """Whether a checkpoint and a model have been saved."""
        return (self.path / NELBO_FILE).is_file()

    def reopen(self) -> RunDirectory:
        """Make the run that was begun here ready to go on, and return it.

        One that was killed may not have a model yet, and may have left half-written files.
        """
        path = self.path
        finish_replacing(path, _OWN)
        self.samples.mkdir(exist_ok=True)
        self.metrics.path.touch()
        for folder in [path, *(path / name for name in _OWN if (path / name).is_dir())]:
            for file in folder.iterdir():
                match = TEMPORARY_NAME.fullmatch(file.name)
                if match and (folder != path or match[1] in _OWN):
                    file.unlink()
        return self

    def join(self) -> None:
        """Find the run that the first process has made or opened here; nothing is written."""
        if (self.path / GROWING).is_dir():
            self._replaces, self._path = self.path, self.path / GROWING

    @property
    def replaces(self) -> Path | None:
        """The directory whose run this one, or the whole, is to replace, until it has."""
        return self.whole._replaces

    def establish(self, *, move: bool = True) -> None:
        """Take the place of the run that this one, or the whole, replaces, if any.

        Args:
            move: move the files, as one of several processes does.
        """
        whole = self.whole
        if whole._replaces is None:
            return
        if move:
            whole.path.rename(whole._replaces / WINNING)
            finish_replacing(whole._replaces, _OWN)
        whole._path, whole._replaces = whole._replaces, None

    def abandon(self) -> None:
        """Leave the run that this one, or the whole, was to replace as it is."""
        assert self.replaces is not None
        shutil.rmtree(self.whole.path)

    @property
    def samples(self) -> Path:
        """The folder of image grids."""
        return self.path / SAMPLES

    def grid_of(self, step: int) -> Path:
        """The grid that was drawn while training, after a step."""
        return self.samples / f"step-{step:06d}.png"

    @property
    def training(self) -> Path:
        """The folder of checkpoints."""
        return self.path / TRAINING

    @property
    def config(self) -> Path:
        """The settings."""
        return self.path / CONFIG_FILE

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's events."""
        return self.path / TENSORBOARD

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / REPORT_FILE

    @property
    def metrics(self) -> StepFile:
        """What was logged while training."""
        return StepFile(self.path / METRICS_FILE)

    @property
    def readings(self) -> StepFile:
        """Bounds of held-out images, read while training."""
        return StepFile(self.path / READINGS_FILE)

    def course(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, and the readings of held-out images among them, by step."""
        readings = [
            {VALIDATION if name == "bits_per_dim" else name: value for name, value in row.items()}
            for row in self.readings.rows()
            if "bits_per_dim" in row
        ]
        return sorted([*self.metrics.rows(), *readings], key=lambda row: row["step"])

    def write_evaluation(self, content: Mapping[str, Any]) -> None:
        """Write evaluation.json."""
        write_json(self.path / EVALUATION_FILE, content)

    def evaluation(self) -> dict[str, Any]:
        """The contents of evaluation.json, by split; empty without one."""
        file = self.path / EVALUATION_FILE
        return read_json(file) if file.is_file() else {}

    @property
    def notes(self) -> dict[str, Any]:
        """The contents of nelbo.json; empty without one, as for a plain pipeline."""
        file = self.path / NELBO_FILE
        return read_notes(file) if file.is_file() else {}

    @property
    def whole_notes(self) -> dict[str, Any]:
        """`notes`; empty where whatever stopped the run cut them off, for going on writes them
        anew."""
        try:
            return self.notes
        except NelboError:
            return {}


def predates_validation(notes: Mapping[str, Any]) -> bool:
    """Whether nelbo.json predates the validation split."""
    return "source" in notes and "splits" not in notes
