"""nelbo report: evaluate a run, sample from it, and write its report again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from nelbo.base.errors import NelboError
from nelbo.commands.common import (
    choose_device,
    mention_skipped,
    print_json,
    results_to,
    show,
)
from nelbo.commands.groups import check_out
from nelbo.commands.model_copy import check_copy, check_not_shipped, copy_model
from nelbo.commands.options.report import Report
from nelbo.commands.run_data import ImageModel, RunSource, check_data, data_for_run, for_fits_of
from nelbo.data import ImageData
from nelbo.evidence.evaluation import check_fits
from nelbo.formats import load
from nelbo.formats.model_directory import holds_autoencoder_alone
from nelbo.latent import LatentDiffusion
from nelbo.runs.run_directory import METRICS_FILE, RunDirectory


def run(options: Report) -> None:
    """Evaluate, sample, report."""
    if options.out is not None:
        check_copy(options.run_path, options.out)
    else:
        check_not_shipped(options.run_path, "the report")

    run = RunDirectory.open(options.run_path)
    if options.out is None:
        check_out(run.report, "RUN")
    if "trained" not in run.notes:
        raise NelboError(f"{options.run_path} is no run of nelbo train, or was never trained")
    test = check_data(run, options.data, "test")
    if options.out is None and not (run.path / METRICS_FILE).is_file():
        raise NelboError(
            f"{options.run_path} is a pipeline without the record of its training "
            f"({METRICS_FILE}): give --out DIR for a copy with the report"
        )
    device = choose_device(options.computing.device)
    # A copy is made once nothing is left that may not fit.
    finish = _prepare(options, run, test, device)
    if options.out is not None:
        copy_model(run.path, options.out)
        run = RunDirectory.reopen(options.out)
    summary = finish(run)
    if options.computing.json:
        print_json({"run": str(run.path), **summary})
    else:
        show(f"Report: {run.report.resolve().as_uri()}")


def _prepare(
    options: Report, run: RunDirectory, source: RunSource, device: torch.device
) -> Callable[[RunDirectory], dict[str, Any]]:
    """Load the model and its images; what then evaluates and writes, as its kind asks for."""
    from nelbo.commands.training.allowance import allowed_seconds
    from nelbo.commands.training.autoencoder_run import AutoencoderRun, finish_autoencoder
    from nelbo.commands.training.latent_run import finish_latent
    from nelbo.commands.training.pixel_run import finish
    from nelbo.commands.training.refinement import Asked

    common: dict[str, Any] = {
        "asked": Asked(options.levels, options.images),
        "seconds": allowed_seconds(run.notes["trained"]["seconds"]),
        "seed": options.computing.seed,
        "table_to": results_to(options.computing.json),
    }
    if holds_autoencoder_alone(run.path):
        if not options.samples.is_default:
            raise NelboError(f"{run.path} is an autoencoder, which has no samples to draw")
        autoencoder = AutoencoderRun.load(run.path, device)
        train, test = _images(source, autoencoder, options.resize)
        for_fits = for_fits_of(source, autoencoder, resize=options.resize)
        return partial(
            finish_autoencoder,
            train=train,
            for_fits=for_fits,
            test=test,
            device=device,
            **common,
        )
    common["samples"] = options.samples
    model = load(run.path).to(device)
    train, test = _images(source, model, options.resize)
    check_fits(model, test)
    if isinstance(model, LatentDiffusion):
        settings = run.notes.get("settings", {}).get("model", {})
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
