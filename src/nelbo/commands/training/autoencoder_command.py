"""nelbo train --model autoencoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from nelbo.commands.training.command import Kind, TrainCommand
from nelbo.training.config import AutoencoderSettings, TrainingConfig

if TYPE_CHECKING:
    import torch

    from nelbo.commands.training.recipe import Recipe
    from nelbo.commands.training.session import TrainingImages
    from nelbo.networks import AutoencoderKL


@dataclass(frozen=True)
class TrainAutoencoder(TrainCommand):
    """Train an autoencoder on images; evaluate it, draw reconstructions, and write a report."""

    trains: ClassVar[Kind] = "autoencoder"
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(batch_size=32, ema_decay=0.995)
    )
    free: ClassVar[tuple[str, ...]] = (
        *("likelihood", "kl_weight", "adversarial_weight", "mirrored", "recoloured"),
        *("perceptual_weight", "perceptual_weights"),
    )
    model: AutoencoderSettings = field(default_factory=AutoencoderSettings)

    def recipe(self, images: TrainingImages, device: torch.device) -> Recipe:
        """An autoencoder."""
        from nelbo.commands.training.autoencoder_recipe import AutoencoderRecipe
        from nelbo.commands.training.start_from import fitted

        start = None if self.start_from is None else fitted(self.starting_model, images.train.shape)
        return AutoencoderRecipe(self.model, images, start)

    @cached_property
    def starting_model(self) -> AutoencoderKL:
        """The autoencoder that --start-from names or, on resuming, what has become of it."""
        from nelbo.commands.training.start_from import starting_autoencoder

        return starting_autoencoder(self._start)
