"""Spaces in which sets of pictures are compared: a name, and a vector of features of each picture.

The Inception and DINO features of the literature need weights that are not part of nelbo. Without
them two spaces are fitted on real pictures, and their figures compare only with others in the same
space of the same pictures:

- *principal components*: the first 32 of the pixels, in −1..1 and not whitened, which see colours
  and layout;
- *random convolutions*: three layers of random 3×3 filters, each averaged over the picture, the
  last over its quarters too, then the first 32 principal components of those, which see edges and
  textures.

Both are fitted on at most 2,000 of the real pictures, drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.distributions import some_places

COMPONENTS = 32
_FITTED_ON = 2000
_BATCH = 128
# Channels of the random convolutions.
_CHANNELS = (32, 64, 64)


@dataclass(frozen=True)
class FeatureSpace:
    """A named map of pictures to vectors.

    Attributes:
        name: what to call it beside a figure.
        map: pictures in [−1, 1], (B, C, H, W) float32, to features (B, D).
        levels: how many levels a pixel has.
        unit: what the kernel distance divides features by: their root mean square where the space
            was fitted on pictures, 1 for the features of a trained network.
    """

    name: str
    map: Callable[[Tensor], Tensor]
    levels: int
    unit: float = 1.0

    @torch.no_grad()
    def __call__(
        self, images: UInt8[Tensor, "n channels height width"]
    ) -> Float[Tensor, "n features"]:
        """The features of each picture, float64, a batch at a time."""
        return torch.cat(
            [
                self.map(to_network(some, self.levels)).double().cpu()
                for some in images.split(_BATCH)
            ]
        )


def features_of(
    space: FeatureSpace, *sets: UInt8[Tensor, "_ channels height width"]
) -> tuple[Float[Tensor, "_ features"], ...]:
    """The features of each set of pictures.

    Pictures that are equal have equal features to the last bit, whichever sets they are in: a copy
    lies at no distance from its original, and in a ball without a radius.
    """
    every = torch.cat(sets)
    distinct, place = torch.unique(every.flatten(1), dim=0, return_inverse=True)
    found = space(distinct.unflatten(1, every.shape[1:]))[place]
    return found.split([len(some) for some in sets])


def to_network(images: UInt8[Tensor, "..."], levels: int) -> Float[Tensor, "..."]:
    """Pixel levels 0..levels−1 as float32 in [−1, 1]."""
    return images.float() * (2 / (levels - 1)) - 1


def some_of(images: Tensor, count: int, seed: int = 0) -> Tensor:
    """At most `count` of the images, drawn at random, in their order."""
    return images if len(images) <= count else images[some_places(len(images), count, seed)]


def principal_components(
    images: UInt8[Tensor, "n channels height width"], levels: int, count: int = COMPONENTS
) -> FeatureSpace:
    """The first principal components of the pixels of some real pictures.

    A picture's features are its pixels in −1..1, less their mean, along the `count` directions of
    largest variance; fewer where there are not as many pictures or values.

    Raises:
        NelboError: fewer than two pictures.
    """
    return _fitted("{} principal components", lambda x: x.flatten(1), images, levels, count)


def random_convolutions(
    images: UInt8[Tensor, "n channels height width"], levels: int
) -> FeatureSpace:
    """Principal components of random convolutional features of some real pictures.

    Raises:
        NelboError: fewer than two pictures.
    """
    generator = torch.Generator().manual_seed(0)
    filters, width = [], images.shape[1]
    for channels in _CHANNELS:
        drawn = torch.randn(channels, width, 3, 3, generator=generator)
        filters.append(drawn * (2 / (9 * width)) ** 0.5)
        width = channels

    def raw(x: Tensor) -> Tensor:
        features = []
        for k, weight in enumerate(filters):
            if k and min(x.shape[-2:]) > 1:
                x = F.avg_pool2d(x, 2, ceil_mode=True)
            x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight))
            features.append(x.mean((2, 3)))
        features.append(F.adaptive_avg_pool2d(x, 2).flatten(1))
        return torch.cat(features, 1)

    return _fitted("random convolutions", raw, images, levels, COMPONENTS)


def _fitted(
    name: str, raw: Callable[[Tensor], Tensor], images: Tensor, levels: int, count: int
) -> FeatureSpace:
    """The first principal components of some features of pictures; the name may hold their number.

    Raises:
        NelboError: fewer than two pictures.
    """
    some = some_of(images, _FITTED_ON)
    flat = torch.cat([raw(to_network(batch, levels)) for batch in some.split(_BATCH)])
    if len(flat) < 2:
        raise NelboError(f"features are fitted on at least 2 pictures, got {len(flat)}")
    n, dims = flat.shape
    mean = flat.mean(0)
    centred = (flat - mean).double()
    count = min(count, n - 1, dims)
    # The eigenvectors of the smaller of the two products hold both.
    if dims <= n:
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        directions = vectors[:, -count:].flip(1)
    else:
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        kept = values[-count:].flip(0).clamp(min=1e-12).sqrt()
        directions = centred.T @ (vectors[:, -count:].flip(1) / kept)
    directions = directions.float()
    variances = values[-count:].flip(0).clamp(min=0) / (n - 1)
    unit = max(float(variances.mean().sqrt()), 1e-6)
    return FeatureSpace(
        name.format(len(variances)), lambda x: (raw(x) - mean) @ directions, levels, unit
    )
