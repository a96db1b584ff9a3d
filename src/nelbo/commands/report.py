"""nelbo report: evaluate a run, sample from it, and write its report again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nelbo.commands.common import (
    MESSAGES,
    RESULTS,
    choose_device,
    load_pixel_model,
    mention_skipped,
    print_json,
    show,
)
from nelbo.commands.options import Computing, at_least_one
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
    computing: Computing = field(default_factory=Computing)

    def run(self) -> None:
        """Evaluate, sample, report."""
        from nelbo.commands.evaluation_progress import levels_to_evaluate
        from nelbo.commands.finish import finish
        from nelbo.commands.run_data import data_for_run
        from nelbo.training.run_directory import RunDirectory

        self.computing.check()
        at_least_one(images=self.images, levels=None if self.levels == "all" else self.levels)
        run = RunDirectory.open(self.run_path)
        if "trained" not in run.notes():
            raise NelboError(f"{self.run_path} is no run of nelbo train, or was never trained")
        model = load_pixel_model(str(self.run_path), "it has no report")
        model.to(choose_device(self.computing.device))
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
            seed=self.computing.seed,
            table_to=MESSAGES if self.computing.json else RESULTS,
        )
        if self.computing.json:
            print_json({"run": str(run.path), **summary})
        else:
            show(f"Report: {run.report.resolve().as_uri()}")
