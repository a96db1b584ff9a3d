"""nelbo train --model autoencoder."""

from __future__ import annotations

from functools import cached_property

import torch

from nelbo.commands.options.train import TrainAutoencoder
from nelbo.commands.training.autoencoder_recipe import AutoencoderRecipe
from nelbo.commands.training.command import TrainCommand
from nelbo.commands.training.recipe import Recipe
from nelbo.commands.training.session import TrainingImages
from nelbo.commands.training.start_from import fitted, starting_autoencoder
from nelbo.networks import AutoencoderKL


class TrainAutoencoderCommand(TrainCommand):
    """Trains an autoencoder."""

    options: TrainAutoencoder

    def recipe(self, images: TrainingImages, device: torch.device) -> Recipe:
        """An autoencoder."""
        start = (
            None
            if self.options.start_from is None
            else fitted(self.starting_model, images.train.shape)
        )
        return AutoencoderRecipe(self.options.model, images, start)

    @cached_property
    def starting_model(self) -> AutoencoderKL:
        """The autoencoder that --start-from names or, on resuming, what has become of it."""
        return starting_autoencoder(self._start)
