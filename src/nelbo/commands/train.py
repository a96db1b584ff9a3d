"""nelbo train: from images to a run with its model, bound, samples and report."""

from __future__ import annotations

from dataclasses import replace

from nelbo.base.console import notice
from nelbo.commands.common import answer, choose_device, use_threads
from nelbo.data.mentions import mention
from nelbo.data.size import Size
from nelbo.data.sources import FIXED_SIZE, absolute, check_source, with_crops
from nelbo.data.splits import TEST, TRAIN, VALIDATION
from nelbo.runs.run_directory import AUTOENCODER_RUN, RunDirectory, predates_validation
from nelbo.runs.settings_file import read_settings
from nelbo.training.images import TrainingImages
from nelbo.training.kinds import kind_of
from nelbo.training.kinds.kind import Kind, Start
from nelbo.training.options import TrainOptions
from nelbo.training.processes import Processes
from nelbo.training.settings import check_unchanged, parse_options
from nelbo.training.stages import train_stages
from nelbo.training.start_from import check_settings, start_of


def run(options: TrainOptions) -> None:
    """Train, evaluate, sample, report."""
    assert options.out is not None
    assert options.data is not None
    kind = kind_of(options.trains)
    # From here on the source names its crops, and every command that reads the run, and paths are
    # found again from another directory.
    data = with_crops(options.data, options.crops)
    options = replace(options.found_again(), data=data, crops=None)
    _check(options)
    if line := kind.announcement(options, data):
        notice(line)
    device = choose_device(options.device)
    use_threads(options.threads)
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
    shown = f"Run: {directory.path}"
    if "report" in summary:
        shown = f"Report: {directory.report.resolve().as_uri()}"
    answer(options.json, {"run": str(directory.path), **summary}, shown)


def _check(options: TrainOptions) -> None:
    """Raise `NelboError` for what the run or the data speak against."""
    assert options.out is not None
    assert options.data is not None
    if options.start_from is not None:
        check_settings(options)
    if options.start_from is not None or options.resume:
        # Before a large model is read, and before a folder that is gone passes for another one.
        check_source(options.data, "train")
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
    mention(images.train, images.validation, images.reported)
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
