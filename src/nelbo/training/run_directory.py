"""A run on disk: a diffusers pipeline with the record of its training beside it.

model_index.json, unet/, scheduler/    the pipeline; unet/ holds the averaged weights
nelbo.json                             data levels, shape, data source, settings, versions
level_profile.safetensors              what each level costs, once it has been fitted
metrics.jsonl                          one line a logged step
evaluation.json                        the bound of each evaluated split
samples/                               image grids
report.html                            the run as a page
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nelbo.diffusers_format import INDEX_FILE, NELBO_FILE, save, write_json
from nelbo.diffusion import Diffusion
from nelbo.diffusion.profile import PROFILE_FILE
from nelbo.errors import NelboError
from nelbo.networks.files import read_json

METRICS_FILE = "metrics.jsonl"
EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "report.html"
SAMPLES = "samples"
_OWN = (
    INDEX_FILE,
    NELBO_FILE,
    PROFILE_FILE,
    METRICS_FILE,
    EVALUATION_FILE,
    REPORT_FILE,
    SAMPLES,
    "unet",
    "scheduler",
)


class RunDirectory:
    """The files of one run.

    Args:
        path: the directory; `create` makes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False) -> RunDirectory:
        """An empty run directory.

        Args:
            path: where.
            overwrite: replace the run that is there; files that are no part of a run stay.

        Raises:
            NelboError: a file or another run is there, or the directory cannot be written.
        """
        run = cls(path)
        if run.path.exists() and not run.path.is_dir():
            raise NelboError(f"{path} is a file; give a new directory for the run")
        taken = [name for name in _OWN if (run.path / name).exists()]
        if taken and not overwrite:
            raise NelboError(
                f"{path} already holds a run ({', '.join(taken[:3])}); choose another directory, "
                "or replace it with --overwrite"
            )
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            for name in taken:
                old = run.path / name
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            run.samples.mkdir()
            (run.path / METRICS_FILE).touch()
        except OSError as error:
            raise NelboError(f"cannot write to {path}: {error}") from error
        return run

    @property
    def samples(self) -> Path:
        """The folder of image grids."""
        return self.path / SAMPLES

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / REPORT_FILE

    def save_model(self, model: Diffusion, notes: Mapping[str, Any]) -> None:
        """Write the pipeline; each of its files is replaced as a whole."""
        try:
            save(model, self.path, notes=notes)
        except OSError as error:
            raise NelboError(f"cannot save the model to {self.path}: {error}") from error

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with (self.path / METRICS_FILE).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl; a last one cut short is left out."""
        rows = []
        for line in (self.path / METRICS_FILE).read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def write_evaluation(self, content: Mapping[str, Any]) -> None:
        """Write evaluation.json."""
        write_json(self.path / EVALUATION_FILE, content)

    def evaluation(self) -> dict[str, Any]:
        """What evaluation.json says, by split; empty where there is none."""
        file = self.path / EVALUATION_FILE
        return read_json(file) if file.is_file() else {}

    def notes(self) -> dict[str, Any]:
        """What nelbo.json says; empty where there is none, as for a plain pipeline."""
        file = self.path / NELBO_FILE
        return read_json(file) if file.is_file() else {}
