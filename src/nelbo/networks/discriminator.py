"""A patch discriminator for adversarial training of an autoencoder (Isola et al. 2017)."""

from __future__ import annotations

import math
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from nelbo.base.errors import NelboError

_SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """Scores each patch of an image: positive for real, negative for generated.

    Normalised by groups rather than batches, so that each image is scored by itself.

    Args:
        channels: C of the images.
        width: channels of the first layer; they double at each further one, up to eight times.
        layers: number of times the resolution is halved.

    Raises:
        NelboError: a number below one.
    """

    def __init__(self, channels: int, *, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        if min(channels, width, layers) < 1:
            raise NelboError(
                f"channels {channels}, width {width} and layers {layers} must be at least 1"
            )
        widths = [width * min(2**level, 8) for level in range(layers + 1)]
        modules: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1)]
        for level, (previous, current) in enumerate(pairwise(widths), 1):
            # The last layers keep the resolution, so that small images have patches too.
            kernel, stride = (4, 2) if level < layers else (3, 1)
            modules += [
                nn.LeakyReLU(_SLOPE),
                nn.Conv2d(previous, current, kernel, stride=stride, padding=1, bias=False),
                nn.GroupNorm(math.gcd(8, current), current),
            ]
        modules += [nn.LeakyReLU(_SLOPE), nn.Conv2d(widths[-1], 1, 3, padding=1)]
        self.layers = nn.Sequential(*modules)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 1 patch_rows patch_columns"]:
        """One number a patch; H and W must be at least 2 to the power of `layers`."""
        return self.layers(x)
