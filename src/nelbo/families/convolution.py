"""Convolutional maps between an image and a vector, for images of any proportions."""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from nelbo.base.arguments import check_counts
from nelbo.base.errors import NelboError
from nelbo.networks.resnet import ResnetBlock

# Sides are halved until the longer one is no longer than this.
_SMALLEST = 4
_MOST_WIDENING = 4
# Channels of one group of a normalisation. A group of one would lose how bright an image is.
_PER_GROUP = 8


def sizes(height: int, width: int) -> list[tuple[int, int]]:
    """The sizes that an image passes through, the largest first."""
    found = [(height, width)]
    while max(found[-1]) > _SMALLEST:
        found.append(((found[-1][0] + 1) // 2, (found[-1][1] + 1) // 2))
    return found


def check_width(width: int) -> None:
    """Raise `NelboError` for a width that group normalisation cannot divide."""
    check_counts(width=width)
    if width % _PER_GROUP:
        raise NelboError(f"width must be a multiple of {_PER_GROUP}, got {width}")


class ImageToVector(nn.Module):
    """A residual block at each size, and a linear map of the smallest.

    Args:
        shape: (C, H, W) of the image.
        width: channels at the largest size; at smaller ones up to four times as many.
        out: length of the vector.
    """

    def __init__(self, shape: tuple[int, int, int], width: int, out: int) -> None:
        super().__init__()
        channels, height, across = shape
        self.sizes = sizes(height, across)
        widths = _widths(width, len(self.sizes))
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(_block(w) for w in widths)
        self.down = nn.ModuleList(
            nn.Conv2d(w, following, 3, stride=2, padding=1) for w, following in pairwise(widths)
        )
        last_height, last_width = self.sizes[-1]
        self.out = nn.Linear(widths[-1] * last_height * last_width, out)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Tensor:
        """The vector of each image, (B, out), in the precision of the weights."""
        h = self.blocks[0](self.conv_in(x.to(self.conv_in.weight.dtype)))
        for down, block in zip(self.down, self.blocks[1:], strict=True):
            h = block(down(h))
        return self.out(silu(h).flatten(1))


class VectorToImage(nn.Module):
    """The way back: a linear map to the smallest size, and a residual block at each.

    Args:
        length: of the vector.
        shape: (C, H, W) of the image.
        width: channels at the largest size; at smaller ones up to four times as many.
    """

    def __init__(self, length: int, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, height, across = shape
        self.sizes = sizes(height, across)[::-1]
        widths = _widths(width, len(self.sizes))[::-1]
        self.start = (widths[0], *self.sizes[0])
        self.linear = nn.Linear(length, widths[0] * self.sizes[0][0] * self.sizes[0][1])
        self.blocks = nn.ModuleList(_block(w) for w in widths)
        self.up = nn.ModuleList(
            nn.Conv2d(w, following, 3, padding=1) for w, following in pairwise(widths)
        )
        self.norm = nn.GroupNorm(widths[-1] // _PER_GROUP, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, z: Float[Tensor, "batch length"]) -> Tensor:
        """The image of each vector, (B, C, H, W)."""
        h = self.blocks[0](self.linear(z).unflatten(1, self.start))
        for size, up, block in zip(self.sizes[1:], self.up, self.blocks[1:], strict=True):
            h = block(up(interpolate(h, size)))
        return self.conv_out(silu(self.norm(h)))


def _widths(width: int, count: int) -> list[int]:
    return [width * min(_MOST_WIDENING, 2**i) for i in range(count)]


def _block(width: int) -> ResnetBlock:
    groups = width // _PER_GROUP
    return ResnetBlock(width, width, embedding_dim=None, groups=groups, activation=silu)
