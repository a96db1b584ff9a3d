r"""Patches of a picture as tokens with their places, and back.

The place (i, j) of a patch enters as fixed sines and cosines of both coordinates (Vaswani et al.
2017; Dosovitskiy et al. 2021), at the frequencies

.. math:: \omega_k = 10000^{-4k/d}, \quad k = 0 .. d/4 - 1

for tokens of width d. A picture of another size than the network was made for has its patches at
fractional places, so that they span the same range.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """A convolution from patches to tokens, and the place of each added.

    Args:
        channels: of the picture.
        dim: width of the tokens.
        patch: side of a patch.
        base: patches along a side of the picture that the network was made for.
        scale: what places are divided by.
    """

    def __init__(self, channels: int, dim: int, *, patch: int, base: int, scale: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        self.dim, self.base, self.scale = dim, base, scale
        self._places: dict[tuple[torch.Size, torch.device], Tensor] = {}

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """The tokens, row by row."""
        z = self.proj(x)
        places = self._places_of(z.shape[2:], z.device)
        return (z.flatten(2).transpose(1, 2) + places).to(z.dtype)

    def _places_of(self, grid: torch.Size, device: torch.device) -> Tensor:
        """`places`, computed once for each grid."""
        if (grid, device) not in self._places:
            height, width = grid
            found = places(height, width, self.dim, base=self.base, scale=self.scale)
            self._places[grid, device] = found.to(device)
        return self._places[grid, device]


def places(
    height: int, width: int, dim: int, *, base: int, scale: float = 1.0
) -> Float[Tensor, "tokens dim"]:
    """Sines and cosines of the columns, then of the rows of a grid, (height · width, dim) float32.

    In float64 but for the coordinates, whose rounding checkpoints were trained with.
    """
    rows, columns = (
        torch.arange(n, dtype=torch.float32) / (n / base) / scale for n in (height, width)
    )
    power = torch.arange(dim // 4, dtype=torch.float64) / (dim / 4)
    parts = []
    for coordinates in (columns.repeat(height), rows.repeat_interleave(width)):
        angle = torch.outer(coordinates.double(), 1.0 / 10_000.0**power)
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1).float()


def unpatch(
    z: Float[Tensor, "batch tokens values"], size: tuple[int, int], patch: int
) -> Float[Tensor, "batch channels height width"]:
    """The picture of tokens that hold patches, rows first and channels last."""
    height, width = size[0] // patch, size[1] // patch
    x = z.view(len(z), height, width, patch, patch, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(z), -1, *size)
