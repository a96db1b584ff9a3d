"""What `nelbo train` leaves to machine, pictures and time, chosen once for a new run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from nelbo.base.console import notice
from nelbo.data import ImageData
from nelbo.training.config import TrainingConfig
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.network_size import Widths, fitting_widths
from nelbo.training.kinds.pixel.build import build_model, default_depth, halving_note
from nelbo.training.kinds.pixel.mirroring import mirrors_suit
from nelbo.training.kinds.pixel.options import ModelConfig, TrainPixels
from nelbo.training.kinds.pixel.presets import FEW_LEVELS, FEW_LEVELS_PRESET
from nelbo.training.kinds.pixel.task import PixelTask, pixel_task
from nelbo.training.kinds.transformer import WIDTHS
from nelbo.training.processes import Processes
from nelbo.training.task import objective_of

# Channels of a UNet at the first resolution; the others have twice as many.
BASES = (16, 24, 32, 48, 64, 96, 128, 192, 256)


def with_choices(options: TrainPixels, images: TrainingImages, processes: Processes) -> TrainPixels:
    """The options with objective, mirroring and widths filled in, where they are left open.

    Raises:
        NelboError: settings of the model that do not fit together or the images.
    """
    if "objective" in options.left_open and images.train.levels <= FEW_LEVELS:
        preset = FEW_LEVELS_PRESET
        options = replace(
            options,
            training=replace(options.training, **preset.training),
            model=replace(options.model, **preset.model),
        )
    if "mirroring" in options.left_open:
        mirrored = mirrors_suit(images.train)
        if mirrored and processes.is_main:
            notice(
                "Mirroring half of the pictures, which look like their mirror images "
                "(--no-horizontal-flip does not)"
            )
        training = replace(options.training, horizontal_flip=mirrored)
        options = replace(options, training=training)
    options = replace(options, left_open=())
    if options.model.widths or options.start_from is not None:
        return options
    halves = processes.is_main and options.model.network == "unet"
    if halves and (note := halving_note(*images.train.shape[1:])):
        notice(note)
    if options.training.seconds is None:
        return options
    if options.model.schedule != "learned":  # a misspelt objective is refused before it is timed
        objective_of(options.training, options.model.levels)
    train, seconds = images.train, options.training.seconds
    task_of = partial(timed_task, options.model, train)
    choices = width_choices(options.model, train)
    widths = fitting_widths(choices, task_of, options, train, seconds, processes)
    return options.with_settings(replace(options.model, widths=widths))


def width_choices(config: ModelConfig, data: ImageData) -> list[Widths]:
    """What a time is fitted with, from the narrowest on."""
    if config.network == "dit":
        return [(width,) for width in WIDTHS]
    depth = default_depth(*data.shape[1:])
    return [(base, *[2 * base] * (depth - 1)) for base in BASES]


def timed_task(
    config: ModelConfig, data: ImageData, widths: Widths, training: TrainingConfig
) -> PixelTask:
    """The training of a network of these widths on as many of the images as a step has."""
    few = data.take(torch.arange(training.batch_size) % len(data))
    return pixel_task(build_model(replace(config, widths=widths), data), few, training)
