"""Halving and doubling the resolution, with and without a convolution.

`Downsample` and `Upsample` are those of Ho et al. (2020); the parameter-free `average_pool` and
`nearest` sit inside residual blocks in Dhariwal & Nichol (2021).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def average_pool(
    x: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height/2 width/2"]:
    """Mean of each 2×2 block."""
    return F.avg_pool2d(x, kernel_size=2, stride=2)


def nearest(
    x: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels 2*height 2*width"]:
    """Every value repeated in a 2×2 block."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Downsample(nn.Module):
    """3×3 convolution of stride 2; padding 0 pads below and on the right only."""

    def __init__(self, channels: int, *, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)
        self.pad_bottom_right = padding == 0

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Halve the resolution; the embedding is not used."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.pad_bottom_right else x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Double the resolution; the embedding is not used."""
        if x.device.type == "cpu":
            return convolve_doubled(x, self.conv.weight, self.conv.bias)
        return self.conv(nearest(x))


def convolve_doubled(
    x: Float[Tensor, "batch in height width"],
    weight: Float[Tensor, "out in 3 3"],
    bias: Float[Tensor, " out"] | None,
) -> Float[Tensor, "batch out 2*height 2*width"]:
    r"""A padded 3×3 convolution of the doubled image, in 4/9 of the multiplications.

    Repeating values and then correlating with w spreads each input value over a 4×4 patch, with
    stride 2, weighted by w (reversed) convolved with a 2×2 block of ones. So one transposed
    convolution gives the same map, without ever building the doubled image:

    .. math:: k_{uv} = \sum_{a,b} S_{ua} S_{vb}\, w_{ab}, \quad S_{ua} = [2 \le u + a \le 3]
    """
    spread = x.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=weight.dtype)
    kernel = torch.einsum("ua,vb,oiab->iouv", spread, spread, weight)
    return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)
