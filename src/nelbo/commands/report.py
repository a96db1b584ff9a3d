"""nelbo report: evaluate a run, sample from it, and write its report again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nelbo.commands.common import choose_device, load_pixel_model, mention_skipped, print_json, say
from nelbo.errors import NelboError


@dataclass(frozen=True)
class Report:
    """Evaluate a run, sample, and write its report, as at the end of training."""

    run_path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run directory, finished or interrupted."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    levels: int | Literal["all"] = 50
    """Levels an image for the bound of the test split: a number, or all."""
    images: int = 300
    """At most so many images of each split are evaluated."""
    seed: int = 0
    """Source of all noise."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, mps."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Evaluate, sample, report."""
        from nelbo.commands.evaluation_progress import levels_to_evaluate
        from nelbo.commands.finish import finish
        from nelbo.commands.run_data import data_for_run
        from nelbo.training.run_directory import RunDirectory

        if self.images < 1:
            raise NelboError(f"--images must be at least 1, got {self.images}")
        if self.levels != "all" and self.levels < 1:
            raise NelboError(f"--levels must be at least 1, got {self.levels}")
        run = RunDirectory.open(self.run_path)
        if "trained" not in run.notes():
            raise NelboError(f"{self.run_path} is no run of nelbo train, or was never trained")
        model = load_pixel_model(str(self.run_path), "it has no report")
        model.to(choose_device(self.device))
        train, test = (
            data_for_run(str(self.run_path), model, self.data, split) for split in ("train", "test")
        )
        mention_skipped(test)
        summary = finish(
            run,
            model,
            train=train,
            test=test,
            levels=levels_to_evaluate(self.levels, model),
            images=self.images,
            seed=self.seed,
        )
        if self.json:
            print_json({"run": str(run.path), **summary})
        else:
            say(f"Report: {run.report.resolve().as_uri()}")
