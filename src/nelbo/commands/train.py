"""nelbo train: from images to a run with its model, bound, samples and report."""

from __future__ import annotations

from nelbo.commands.options.train import TrainOptions
from nelbo.commands.training.autoencoder_command import TrainAutoencoderCommand
from nelbo.commands.training.command import TrainCommand
from nelbo.commands.training.latent_command import TrainLatentCommand
from nelbo.commands.training.pixel_command import TrainPixelsCommand

_COMMANDS: dict[str, type[TrainCommand]] = {
    "pixel": TrainPixelsCommand,
    "autoencoder": TrainAutoencoderCommand,
    "latent": TrainLatentCommand,
}


def run(options: TrainOptions) -> None:
    """Train, evaluate, sample, report."""
    _COMMANDS[options.trains](options).run()
