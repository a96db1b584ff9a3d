"""nelbo train: from images to a run with its model, bound, samples and report.

A run has one stage or more, as its kind of model asks for; each is trained, evaluated and reported
in turn.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from nelbo.base.console import notice
from nelbo.commands.common import choose_device, print_json, results_to, show
from nelbo.commands.training.session import TrainingSession
from nelbo.data.mentions import mention_duplicates, mention_skipped
from nelbo.data.size import Size
from nelbo.data.sources import FIXED_SIZE, absolute, check_source, with_crops
from nelbo.data.splits import TEST, TRAIN, VALIDATION
from nelbo.runs.run_directory import AUTOENCODER_RUN, RunDirectory, predates_validation
from nelbo.runs.settings_file import read_settings
from nelbo.training.allowance import allowed_seconds, report_where_on_interrupt
from nelbo.training.images import TrainingImages
from nelbo.training.kinds import kind_of
from nelbo.training.kinds.final_samples import FinalSamples
from nelbo.training.kinds.kind import Ending, Kind, Stage
from nelbo.training.kinds.refinement import Asked
from nelbo.training.options import TrainOptions
from nelbo.training.processes import Processes
from nelbo.training.settings import check_unchanged, parse_options, save_options
from nelbo.training.start import Start
from nelbo.training.start_from import check_settings, start_of


def run(options: TrainOptions) -> None:
    """Train, evaluate, sample, report."""
    assert options.out is not None
    assert options.data is not None
    kind = kind_of(options.trains)
    # From here on the source names its crops, and every command that reads the run, and paths are
    # found again from another directory.
    data = options.data if options.crops is None else with_crops(options.data, options.crops)
    options = replace(options.found_again(), data=data, crops=None)
    _check(options)
    if line := kind.announcement(options, data):
        notice(line)
    device = choose_device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    processes = Processes.join(device, sharded=options.training.shard)
    start = start_of(options)
    images = TrainingImages.load(
        data, *_frame(options, kind, start), validation=not _predates_validation(options)
    )
    if processes.is_main:
        _mention(options, images, start)
        for line in kind.unused(options, images, start):
            notice(line)
    directory, summary = train_stages(options, images, processes, start)
    if not processes.is_main:
        return
    if options.json:
        print_json({"run": str(directory.path), **summary})
    elif "report" in summary:
        show(f"Report: {directory.report.resolve().as_uri()}")
    else:
        show(f"Run: {directory.path}")


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
            if stage.about and processes.is_main:
                notice(stage.about)
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


def _check(options: TrainOptions) -> None:
    """Raise `NelboError` for what the run or the data speak against."""
    assert options.out is not None
    assert options.data is not None
    if options.start_from is not None:
        check_settings(options)
        check_source(options.data, "train")  # before a large model is read
    if not options.resume:
        RunDirectory.check_free(options.out, overwrite=options.overwrite)
        return
    run = RunDirectory(options.out)
    before = parse_options(type(options), read_settings(run.config), run.config)
    # As they are kept.
    check_unchanged(replace(options, data=absolute(options.data)), before, run)


def _frame(
    options: TrainOptions, kind: type[Kind], start: Start | None
) -> tuple[int | str | Size | None, int | None]:
    """The size and channels to cut the images to: as asked, or as a trained model has them."""
    if options.data in FIXED_SIZE:
        return options.size, options.channels
    return kind.asked_frame(options, start)


def _predates_validation(options: TrainOptions) -> bool:
    """Whether the run to go on with was begun before there was a validation split."""
    if not options.resume or options.out is None:
        return False
    run = RunDirectory(options.out)
    # Of notes that are cut off nothing is known. Other images than those that the checkpoint has
    # learned from are refused later.
    stages = (run, run.stage(AUTOENCODER_RUN))
    return any(predates_validation(stage.whole_notes) for stage in stages)


def _mention(options: TrainOptions, images: TrainingImages, start: Start | None) -> None:
    """Report what is trained on, where that is not as one would expect."""
    if start is not None:
        notice(f"Training on from the model of {options.start_from} (--model {options.trains})")
    mention_skipped(images.train, images.validation, images.test)
    mention_duplicates(images.reported)
    if images.train.split_note is not None:
        notice(f"{images.source}: {images.train.split_note}")
    if images.watched == TEST:
        notice(
            "this run was begun before there was a validation split, and trains on the images "
            "that it began with"
        )
    if options.training.validate_every and images.watched != VALIDATION:
        read = {
            TEST: "test images, as it began: the bound of its best checkpoint on them is an "
            "optimistic one",
            TRAIN: f"the images that it trains on, for {images.source} is too small for a "
            "validation split",
        }
        notice(f"--validate-every reads {read[images.watched]}")
