"""What `nelbo train --model autoencoder` asks for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from nelbo.base.errors import NelboError
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.chain_settings import MOST
from nelbo.training.options import KindName, TrainOptions, resolved
from nelbo.training.ranges import check_numbers


@dataclass(frozen=True)
class AutoencoderSettings:
    """The autoencoder to train."""

    widths: tuple[int, ...] = ()
    """Channels at each resolution, each half of the one before; by default chosen from the image
    size. Latents have the lowest one."""
    latent_channels: int = 8
    """Channels of the latents."""
    layers: int = 1
    """Residual blocks at each resolution."""
    likelihood: str = "discretized"
    """p(x|z): discretized, the probability of a pixel's level, with one learned scale; or the
    densities normal and laplace with the scale that suits each batch, a squared and an L1 loss."""
    kl_weight: float = 0.05
    """Weight of the divergence from N(0, I); 1 minimises the bound of a plain VAE."""
    adversarial_weight: float = 0.0
    """Weight of a patch discriminator, relative to the reconstruction; 0 for none."""
    perceptual_weight: float = 0.0
    """Weight of LPIPS, how different a reconstruction looks, beside nats a dimension; 0 for none.
    It needs --perceptual-weights."""
    perceptual_weights: str | None = None
    """The weights of LPIPS, a local safetensors file; docs/training.md has the code to make it."""
    mirrored: float = 0.5
    """Share of the images that are learned as their mirror image."""
    recoloured: float = 0.2
    """Share of the images whose colour channels are learned in a random order."""
    freeze_encoder: bool = False
    """With --start-from, train the decoder alone: a prior that was trained on the latents of the
    model to start from stays one of these."""

    def check(self) -> None:
        """Raise `NelboError` for a number that makes no sense, naming it."""
        check_numbers(
            self,
            at_least_one=("widths", "latent_channels", "layers"),
            at_most={"layers": MOST["layers"]},
            not_negative=("kl_weight", "adversarial_weight", "perceptual_weight"),
            share=("mirrored", "recoloured"),
        )


@dataclass(frozen=True)
class TrainAutoencoder(TrainOptions):
    """Train an autoencoder on images; evaluate it, draw reconstructions, and write a report."""

    trains: ClassVar[KindName] = "autoencoder"
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(batch_size=32, ema_decay=0.995, optimizer="muon")
    )
    free: ClassVar[tuple[str, ...]] = (
        *("likelihood", "kl_weight", "adversarial_weight", "mirrored", "recoloured"),
        *("perceptual_weight", "perceptual_weights", "freeze_encoder"),
    )
    model: AutoencoderSettings = field(default_factory=AutoencoderSettings)

    def found_again(self) -> TrainAutoencoder:
        """With paths as they are found again from another directory."""
        model = replace(self.model, perceptual_weights=resolved(self.model.perceptual_weights))
        return replace(super().found_again(), model=model)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        super().check()
        if self.start_classes != "same":
            raise NelboError("--start-classes: an autoencoder has no classes")
        if self.model.freeze_encoder and self.start_from is None:
            raise NelboError(
                "--freeze-encoder trains the decoder of a trained autoencoder: name that by "
                "--start-from"
            )


OPTIONS = TrainAutoencoder
