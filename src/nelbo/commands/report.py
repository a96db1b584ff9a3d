"""nelbo report: evaluate a run, sample from it, and write its report again."""

from __future__ import annotations

from dataclasses import replace

from nelbo.base.console import results_to
from nelbo.base.errors import NelboError
from nelbo.commands.common import answer, check_place, compute_on
from nelbo.commands.options.report import Report
from nelbo.data.mentions import mention
from nelbo.runs.model_copy import copy_model
from nelbo.runs.run_data import ImageModel, RunSource, check_data, data_for_run, for_fits_of
from nelbo.runs.run_directory import METRICS_FILE, REPORT_FILE, RunDirectory
from nelbo.training.allowance import allowed_seconds
from nelbo.training.kinds.kind import Ending
from nelbo.training.kinds.refinement import Asked
from nelbo.training.start_from import kind_of_run


def run(options: Report) -> None:
    """Evaluate, sample, report."""
    run = RunDirectory.open(options.run_path)
    check_place(options.run_path, options.out, REPORT_FILE, "the report")
    if not run.has_model:
        raise NelboError(f"{options.run_path} holds no model yet: its training was broken off")
    test = check_data(run, options.data, "test", resize=options.resize)
    # A model that was saved by itself has no record that could be lost.
    recorded = "trained" in run.notes
    if options.out is None and recorded and not (run.path / METRICS_FILE).is_file():
        raise NelboError(
            f"{options.run_path} is a pipeline without the record of its training "
            f"({METRICS_FILE}): give --out DIR for a copy with the report"
        )
    device = compute_on(options.computing)
    # A copy is made once nothing is left that may not fit.
    kind = kind_of_run(run.path)
    if not (kind.draws or options.samples.is_default):
        raise NelboError(f"{run.path} is an {kind.name}, which has no samples to draw")
    model = kind.load(run.path).to(device)
    ending = _ending(options, run, model, test, fits=kind.fits)
    kind.check_fits(model, ending.test)
    if options.out is not None:
        copy_model(run.path, options.out)
        run = RunDirectory(options.out)
    run.samples.mkdir(exist_ok=True)
    summary = kind.report(run, model, ending)
    shown = f"Report: {run.report.resolve().as_uri()}"
    answer(options.computing.json, {"run": str(run.path), **summary}, shown)


def _ending(
    options: Report, run: RunDirectory, model: ImageModel, test: RunSource, *, fits: bool
) -> Ending:
    """What the model was trained on and what was held out, and how to report on it."""
    held_out = data_for_run(test, model)
    mention(held_out)
    train = data_for_run(replace(test, split="train"), model)
    return Ending(
        train=train,
        test=held_out,
        for_fits=for_fits_of(test, model) if fits else train,
        asked=Asked(options.levels, options.images),
        samples=options.samples,
        seconds=allowed_seconds(run.notes.get("trained", {}).get("seconds", 0.0)),
        seed=options.computing.seed,
        table_to=results_to(options.computing.json),
        coded=options.rate_distortion,
    )
