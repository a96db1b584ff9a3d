r"""The nearest training picture of each sample, by which memorising is seen.

The distance of two pictures is the root mean square of the difference of their pixels, black being
0 and white 1; a training picture counts as its mirror image, too. A model that copies draws samples
that are much nearer to training pictures than other real pictures are: those held out are the
measure. Held-out pictures that are themselves in the training set are left out of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.distributions import some_places
from nelbo.evidence.inputs import check_pictures

# Training pictures that are searched at most, drawn at random; and held-out ones to compare with.
MOST_SEARCHED = 20_000
MOST_HELD_OUT = 1_000
# Samples nearer than all but this share of the held-out pictures are counted.
_NEAR = 0.05
_CHUNK = 256


@dataclass(frozen=True)
class Nearest:
    """The nearest training picture of each sample.

    Attributes:
        index: which training picture, (N,).
        mirrored: whether its mirror image is nearer than itself, (N,).
        distance: root mean square difference of the pixels, of 0..1, (N,).
        held_out: the distance of each held-out picture to its nearest, (M,); empty without any.
        searched: how many training pictures were searched.
    """

    index: Int[Tensor, " n"]
    mirrored: Bool[Tensor, " n"]
    distance: Float[Tensor, " n"]
    held_out: Float[Tensor, " m"]
    searched: int

    @property
    def ratio(self) -> float:
        """The median distance of samples as a share of that of held-out pictures.

        About 1 where the model draws pictures as new as those, far below where it copies; nan
        without held-out pictures.
        """
        if len(self.held_out) == 0:
            return math.nan
        return float(self.distance.median() / self.held_out.median())

    @property
    def near_share(self) -> float:
        """The share of samples nearer to training pictures than 95% of held-out pictures are.

        5% where samples are as new as held-out pictures; nan without those.
        """
        if len(self.held_out) == 0:
            return math.nan
        return float((self.distance < self.held_out.quantile(_NEAR)).double().mean())

    def to_json(self) -> dict[str, Any]:
        """For a file; what is not known is null."""
        known = len(self.held_out) > 0
        return {
            "searched": self.searched,
            "held_out": len(self.held_out),
            "distance": float(self.distance.median()),
            "held_out_distance": float(self.held_out.median()) if known else None,
            "ratio": self.ratio if known else None,
            "near_share": self.near_share if known else None,
        }


def nearest_training(
    samples: UInt8[Tensor, "n channels height width"],
    train: UInt8[Tensor, "m channels height width"],
    held_out: UInt8[Tensor, "k channels height width"] | None = None,
    levels: int = 256,
    *,
    seed: int = 0,
) -> Nearest:
    """Find the nearest training picture of each sample.

    Args:
        samples: pixel levels 0..levels−1, (N, C, H, W).
        train: what was trained on; at most 20,000 of them are searched.
        held_out: real pictures that were not trained on; at most 1,000 are measured.
        levels: how many levels a pixel has.
        seed: which ones, where there are more.

    Raises:
        NelboError: pictures of another size.
    """
    check_pictures(samples=samples, train=train)
    if samples.shape[1:] != train.shape[1:]:
        raise NelboError(
            f"samples of shape {tuple(samples.shape[1:])} have no nearest picture among those of "
            f"shape {tuple(train.shape[1:])}"
        )
    searched = some_places(len(train), MOST_SEARCHED, seed)
    index, mirrored, distance = _search(samples, train, searched, levels)
    beside = torch.zeros(0, dtype=torch.float64)
    if held_out is not None and len(held_out):
        some = held_out[some_places(len(held_out), MOST_HELD_OUT, seed)]
        beside = _search(some, train, searched, levels)[2]
        beside = beside[beside > 0]
    return Nearest(index, mirrored, distance, beside, len(searched))


def _search(
    images: Tensor, train: Tensor, searched: Tensor, levels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest training picture of each image, whether mirrored, and how far it is."""
    flat = (images.float() / (levels - 1)).flatten(1)
    flipped = (images.flip(-1).float() / (levels - 1)).flatten(1)
    both = torch.stack([flat, flipped])
    least = torch.full((2, len(images)), math.inf)
    where = torch.zeros(2, len(images), dtype=torch.int64)
    for some in searched.split(_CHUNK):
        of_train = (train[some].float() / (levels - 1)).flatten(1)
        # ‖x − y‖² less ‖x‖², which is the same for all y.
        squares = of_train.square().sum(1) - 2 * both @ of_train.T
        found, at = squares.min(-1)
        where = torch.where(found < least, some[at], where)
        least = torch.minimum(found, least)
    # Float32 lost the last digits above.
    candidates = train[where].double() / (levels - 1)
    queries = torch.stack([images, images.flip(-1)]).double() / (levels - 1)
    distances = (queries - candidates).flatten(2).square().mean(-1).sqrt()
    mirrored = distances[1] < distances[0]
    n = torch.arange(len(images))
    pick = mirrored.long()
    return where[pick, n], mirrored, distances[pick, n]
