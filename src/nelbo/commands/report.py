"""nelbo report: evaluate a run, sample from it, and write its report again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from nelbo.base.errors import NelboError
from nelbo.commands.common import (
    choose_device,
    mention_skipped,
    print_json,
    results_to,
    show,
)
from nelbo.commands.model_copy import check_copy, check_not_shipped, copy_model
from nelbo.commands.options import Computing, at_least_one, check_out
from nelbo.commands.run_data import check_data, data_for_run, for_fits_of
from nelbo.commands.training.final_samples import FinalSamples
from nelbo.formats.model_directory import holds_autoencoder_alone

if TYPE_CHECKING:
    import torch

    from nelbo.commands.run_data import ImageModel, RunSource
    from nelbo.data import ImageData
    from nelbo.runs.run_directory import RunDirectory


@dataclass(frozen=True)
class Report:
    """Evaluate a run, sample, and write its report, as at the end of training."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run directory, finished or interrupted."""
    out: Path | None = None
    """Directory for a copy of the model with the report, instead of writing into RUN; it must be
    new or empty. Checkpoints that ship with nelbo are reported so."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    levels: int | Literal["all"] | None = None
    """Levels an image for the bound of the test split: a number, or all, whatever time that takes;
    by default as many as fit into a fifth of the time that the run trained, or 20 s."""
    images: int | None = None
    """At most so many images of each split are evaluated, whatever time that takes; by default as
    many as fit, or 300 with --levels."""
    resize: bool = False
    """Cut and resize images of another size than the model's."""
    samples: FinalSamples = field(default_factory=FinalSamples)
    computing: Computing = field(default_factory=Computing)

    def run(self) -> None:
        """Evaluate, sample, report."""
        self.computing.check()
        at_least_one(images=self.images, levels=None if self.levels == "all" else self.levels)
        self.samples.check()
        if self.out is not None:
            check_copy(self.run_path, self.out)
        else:
            check_not_shipped(self.run_path, "the report")

        from nelbo.runs.run_directory import METRICS_FILE, RunDirectory

        run = RunDirectory.open(self.run_path)
        if self.out is None:
            check_out(run.report, "RUN")
        if "trained" not in run.notes():
            raise NelboError(f"{self.run_path} is no run of nelbo train, or was never trained")
        test = check_data(self.run_path, self.data, "test")
        if self.out is None and not (run.path / METRICS_FILE).is_file():
            raise NelboError(
                f"{self.run_path} is a pipeline without the record of its training "
                f"({METRICS_FILE}): give --out DIR for a copy with the report"
            )
        device = choose_device(self.computing.device)
        # A copy is made once nothing is left that may not fit.
        finish = self._prepare(run, test, device)
        if self.out is not None:
            copy_model(run.path, self.out)
            run = RunDirectory.reopen(self.out)
        summary = finish(run)
        if self.computing.json:
            print_json({"run": str(run.path), **summary})
        else:
            show(f"Report: {run.report.resolve().as_uri()}")

    def _prepare(
        self, run: RunDirectory, source: RunSource, device: torch.device
    ) -> Callable[[RunDirectory], dict[str, Any]]:
        """Load the model and its images; what then evaluates and writes, as its kind asks for."""
        from nelbo.commands.training.allowance import allowed_seconds
        from nelbo.commands.training.autoencoder_run import AutoencoderRun, finish_autoencoder
        from nelbo.commands.training.latent_run import finish_latent
        from nelbo.commands.training.pixel_run import finish
        from nelbo.commands.training.refinement import Asked
        from nelbo.evidence.evaluation import check_fits
        from nelbo.formats import load
        from nelbo.latent import LatentDiffusion

        common: dict[str, Any] = {
            "asked": Asked(self.levels, self.images),
            "seconds": allowed_seconds(run.notes()["trained"]["seconds"]),
            "seed": self.computing.seed,
            "table_to": results_to(self.computing.json),
        }
        if holds_autoencoder_alone(run.path):
            if not self.samples.is_default:
                raise NelboError(f"{run.path} is an autoencoder, which has no samples to draw")
            autoencoder = AutoencoderRun.load(run.path, device)
            train, test = _images(source, autoencoder, self.resize)
            for_fits = for_fits_of(source, autoencoder, resize=self.resize)
            return partial(
                finish_autoencoder,
                train=train,
                for_fits=for_fits,
                test=test,
                device=device,
                **common,
            )
        common["samples"] = self.samples
        model = load(run.path).to(device)
        train, test = _images(source, model, self.resize)
        check_fits(model, test)
        if isinstance(model, LatentDiffusion):
            settings = run.notes().get("settings", {}).get("model", {})
            return partial(
                finish_latent,
                model=model,
                train=train,
                test=test,
                guidance=settings.get("guidance", 1.0),
                **common,
            )
        return partial(finish, model=model, train=train, test=test, **common)


def _images(test: RunSource, model: ImageModel, resize: bool) -> tuple[ImageData, ImageData]:
    """What it was trained on and what was held out."""
    held_out = data_for_run(test, model, resize=resize)
    mention_skipped(held_out)
    return data_for_run(replace(test, split="train"), model, resize=resize), held_out
