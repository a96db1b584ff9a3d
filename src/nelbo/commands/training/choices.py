"""What `nelbo train` leaves to machine, pictures and time, chosen once for a new run."""

from __future__ import annotations

from dataclasses import replace

from nelbo.commands.common import say
from nelbo.commands.options.train import Train
from nelbo.commands.training.session import TrainingImages
from nelbo.training.mirroring import mirrors_suit
from nelbo.training.network_size import choose_network
from nelbo.training.presets import FEW_LEVELS, FEW_LEVELS_PRESET
from nelbo.training.processes import Processes


def with_choices(command: Train, images: TrainingImages, processes: Processes) -> Train:
    """The command with objective, mirroring and widths filled in, where they are left open.

    Raises:
        NelboError: settings of the model that do not fit together or the images.
    """
    if "objective" in command.left_to_data and images.train.levels <= FEW_LEVELS:
        preset = FEW_LEVELS_PRESET
        command = replace(
            command,
            training=replace(command.training, **preset.training),
            model=replace(command.model, **preset.model),
        )
    if "mirroring" in command.left_to_data:
        mirrored = mirrors_suit(images.train)
        if mirrored and processes.is_main:
            say(
                "Mirroring half of the pictures, which look like their mirror images "
                "(--no-horizontal-flip does not)"
            )
        training = replace(command.training, horizontal_flip=mirrored)
        command = replace(command, training=training)
    command = replace(command, left_to_data=())
    if command.model.widths or command.start_from is not None or command.training.seconds is None:
        return command
    widths = _fitting_widths(command, images, command.training.seconds, processes)
    return replace(command, model=replace(command.model, widths=widths))


def _fitting_widths(
    command: Train, images: TrainingImages, seconds: float, processes: Processes
) -> tuple[int, ...]:
    """What the first process measures; every process goes by it."""
    widths: tuple[int, ...] = ()
    if processes.is_main:
        found = choose_network(
            command.model,
            images.train,
            seconds,
            command.training.batch_size,
            processes.device,
            threads=command.threads,
            processes=processes.count,
        )
        widths = found.widths
        passes = ""
        if images.train.stream is None:
            count = len(images.train)
            passes = f", {found.examples / count:,.0f} passes over {count:,}"
        say(
            f"Network: {' '.join(map(str, widths))} channels, {found.weights / 1e6:.2f}M weights, "
            f"as the time is enough for about {found.examples:,.0f} images{passes} (--widths "
            "chooses another)"
        )
    first, depth = processes.sum([float(widths[0]), float(len(widths))] if widths else [0.0, 0.0])
    return (int(first), *[2 * int(first)] * (int(depth) - 1))
