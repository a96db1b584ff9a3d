"""What `nelbo train` leaves to machine, pictures and time, chosen once for a new run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nelbo.base.console import notice
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.network_size import fitting_widths
from nelbo.training.kinds.pixel.build import halving_note
from nelbo.training.kinds.pixel.candidates import candidates
from nelbo.training.kinds.pixel.mirroring import mirrors_suit
from nelbo.training.kinds.pixel.options import TrainPixels
from nelbo.training.kinds.pixel.presets import FEW_LEVELS, FEW_LEVELS_PRESET
from nelbo.training.processes import Processes
from nelbo.training.task import objective_of


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
    asked = partial(candidates, options.model, images.train, processes.device)
    seconds = options.training.seconds
    widths = fitting_widths(asked, options, images.train, seconds, processes)
    return replace(options, model=replace(options.model, widths=widths))
