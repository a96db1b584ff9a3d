"""A run from its images to its report: one stage or more, as its kind of model asks for; each is
trained, evaluated and reported in turn."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from nelbo.base.console import results_to
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.allowance import allowed_seconds, report_where_on_interrupt
from nelbo.training.images import TrainingImages
from nelbo.training.kinds import kind_of
from nelbo.training.kinds.final_samples import FinalSamples
from nelbo.training.kinds.kind import Ending, Kind, Stage, Start
from nelbo.training.kinds.refinement import Asked
from nelbo.training.options import TrainOptions
from nelbo.training.processes import Processes
from nelbo.training.session import TrainingSession
from nelbo.training.settings import save_options


def train_stages(
    options: TrainOptions,
    images: TrainingImages,
    processes: Processes,
    start: Start | None = None,
    *,
    report: bool = True,
) -> tuple[RunDirectory, dict[str, Any]]:
    """Train every stage of a run: the run, and the results of its stages.

    Args:
        options: what to train, with the directory of the run and its data.
        images: what it is trained on.
        processes: who trains.
        start: the trained model to begin with, if any.
        report: evaluate, sample and write the report of each stage; without, there are no results.

    Raises:
        NelboError: settings that do not fit together or the images, or training that diverged.
    """
    assert options.out is not None
    run, made = RunDirectory(options.out), False
    summary: dict[str, Any] = {}
    with ExitStack() as held:
        for stage in kind_of(options.trains).stages(options, images, processes, run):
            if stage.about:
                processes.notice(stage.about)
            session = TrainingSession(stage, images, processes, start)
            if not made:  # nothing is written before it is known that all fits together
                _make(run, options, processes, held)
                made = True
            directory = run.stage(stage.name) if stage.name else run
            if processes.is_main:
                if stage.name and not stage.options.resume:
                    run.make_stage(stage.name)
                _save_settings(stage, session.kind, images, run, directory)
            session.train(directory)
            if not stage.name:
                processes.leave()
            found = _report(stage, session, directory) if report and processes.is_main else {}
            if stage.name:
                processes.sum([0.0])  # the others wait for what the first one evaluates
            summary |= {stage.name: found} if stage.name else found
    return run, summary


def _report(stage: Stage, session: TrainingSession, run: RunDirectory) -> dict[str, Any]:
    """Evaluate a finished run; Ctrl-C ends it with a word on where the weights are."""
    options, images = stage.options, session.images
    kind, trainer = session.kind, session.trainer
    ending = Ending(
        train=images.train,
        test=images.reported,
        for_fits=images.for_fits,
        asked=Asked(options.evaluate_levels, options.evaluate_images),
        samples=getattr(options, "samples", FinalSamples()),
        seconds=allowed_seconds(trainer.seconds, stage.share),
        seed=options.training.seed,
        table_to=results_to(options.json),
    )
    with report_where_on_interrupt(run):
        return kind.report(run, kind.load(run.path).to(trainer.device), ending)


def _save_settings(
    stage: Stage, kind: Kind, images: TrainingImages, run: RunDirectory, directory: RunDirectory
) -> None:
    """Write config.yaml of a stage and of its run, with what was left to the data filled in."""
    of_run = kind.options if stage.whole is stage.options else stage.whole
    # Of the run itself last: a stage that is all of it has the same file.
    for options, file in ((kind.options, directory.config), (of_run, run.config)):
        channels = images.train.shape[0]
        save_options(
            replace(options, kind=options.trains, data=images.source, channels=channels), file
        )


def _make(run: RunDirectory, options: TrainOptions, processes: Processes, held: ExitStack) -> None:
    """Make or open the run directory, as the first process does, which holds its lock."""
    if processes.is_main:
        held.enter_context(run.alone())
        if options.resume:
            run.reopen()
        else:
            run.make(overwrite=options.overwrite)
    processes.sum([0.0])  # none goes on before the directory is there
    if not processes.is_main:
        run.join()
