"""What `nelbo train` leaves to machine, pictures and time, chosen once for a new run."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch

from nelbo.base.console import notice
from nelbo.data import ImageData
from nelbo.training.config import TrainingConfig
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.network_size import FittingNetwork, Widths, fitting_network
from nelbo.training.kinds.pixel.build import build_model, default_depth, halving_note
from nelbo.training.kinds.pixel.mirroring import mirrors_suit
from nelbo.training.kinds.pixel.options import ModelConfig, TrainPixels
from nelbo.training.kinds.pixel.presets import FEW_LEVELS, FEW_LEVELS_PRESET
from nelbo.training.kinds.pixel.task import PixelTask, pixel_task
from nelbo.training.kinds.transformer import WIDTHS
from nelbo.training.processes import Processes
from nelbo.training.task import objective_of

# Passes over the pictures from which on dropout gains: docs/decisions/0033-dropout.md.
FEW_PASSES = 50
# Channels of a UNet at the first resolution; the others have twice as many.
BASES = (16, 24, 32, 48, 64, 96, 128, 192, 256)


def with_choices(options: TrainPixels, images: TrainingImages, processes: Processes) -> TrainPixels:
    """The options with what is left open of objective, mirroring, widths and dropout filled in.

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
    leaves_dropout = "dropout" in options.left_open and images.train.levels > FEW_LEVELS
    options = replace(options, left_open=())
    if options.start_from is not None:
        return options
    halves = processes.is_main and options.model.network == "unet" and not options.model.widths
    if halves and (note := halving_note(*images.train.shape[1:])):
        notice(note)
    config = options.training
    examples = math.inf
    if config.steps is not None:
        examples = config.steps * config.batch_size
    if config.seconds is not None and (leaves_dropout or not options.model.widths):
        found = _timed(options, images.train, config.seconds, processes)
        examples = min(examples, found.examples)
        options = options.with_settings(replace(options.model, widths=found.widths))
    # A stream is of more pictures than can be seen often.
    pictures = len(images.train) if images.train.stream is None else math.inf
    if leaves_dropout and examples < FEW_PASSES * pictures:
        if processes.is_main:
            notice(
                f"No dropout, which pays with {FEW_PASSES} passes over the pictures or more "
                "(--dropout)"
            )
        options = options.with_settings(replace(options.model, dropout=0.0))
    return options


def _timed(
    options: TrainPixels, train: ImageData, seconds: float, processes: Processes
) -> FittingNetwork:
    """The network that fits the time, or the one that is asked for, and how far it gets."""
    if options.model.schedule != "learned":  # a misspelt objective is refused before it is timed
        objective_of(options.training, options.model.levels)
    widths = options.model.widths
    choices = [widths] if widths else width_choices(options.model, train)
    task_of = partial(timed_task, options.model, train)
    return fitting_network(choices, task_of, options, train, seconds, processes)


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
