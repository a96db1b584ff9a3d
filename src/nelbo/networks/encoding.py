"""What a latent model asks of an autoencoder, whichever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.distributions import Normal


class Autoencoder(nn.Module, ABC):
    """Images to distributions over latents, and latents to images.

    Attributes:
        config: with `in_channels`, `latent_channels`, and `downscale`, the ratio of their sides.
    """

    config: Any

    @abstractmethod
    def encode(self, x: Tensor) -> Normal:
        """q(z|x) of images (B, C, H, W) in [−1, 1]."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """The images of latents, unclipped."""

    @abstractmethod
    def save_pretrained(self, path: Any) -> None:
        """Write config.json and the weights into a directory."""
