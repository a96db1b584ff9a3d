"""What is read off samples: their quality in each feature space, and whether they are copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from nelbo.data import ImageData
from nelbo.evidence.feature_spaces import (
    FeatureSpace,
    principal_components,
    random_convolutions,
    some_of,
)
from nelbo.evidence.nearest import Nearest, nearest_training
from nelbo.evidence.sample_quality import MOST_REAL, SpaceQuality, sample_quality
from nelbo.evidence.vision_model import vision_model

# Pairs of samples and their nearest training picture that are kept to be shown.
SHOWN_PAIRS = 8
# Training pictures that the end of a run compares its samples with at most.
READ_AT_END = 2_000
LEAST_REAL, LEAST_SAMPLES = 4, 2


@dataclass(frozen=True)
class Pairs:
    """Samples, each with its nearest training picture.

    Attributes:
        samples: the samples, (N, C, H, W).
        nearest: the training pictures, mirrored where that is nearer, (N, C, H, W).
        names: of the training pictures.
        distances: root mean square difference of the pixels, of 0..1.
        levels: how many levels a pixel has.
    """

    samples: UInt8[Tensor, "n channels height width"]
    nearest: UInt8[Tensor, "n channels height width"]
    names: tuple[str, ...]
    distances: tuple[float, ...]
    levels: int


@dataclass(frozen=True)
class SampleReading:
    """What samples were found to be.

    Attributes:
        spaces: their figures in each feature space.
        nearest: the nearest training picture of each.
        pairs: the samples that are nearest to a training picture, with it.
    """

    spaces: tuple[SpaceQuality, ...]
    nearest: Nearest
    pairs: Pairs

    def to_json(self) -> dict[str, Any]:
        """For evaluation.json and --json."""
        return {
            "spaces": [space.to_json() for space in self.spaces],
            "nearest_training": self.nearest.to_json(),
        }


def read_samples(
    samples: UInt8[Tensor, "n channels height width"],
    train: ImageData,
    held_out: ImageData | None = None,
    *,
    features: str | Path | None = None,
    most: int = MOST_REAL,
    seed: int = 0,
) -> SampleReading | None:
    """Compare samples with the pictures trained on; None where either are too few.

    Args:
        samples: pixel levels, (N, C, H, W).
        train: what was trained on.
        held_out: what was not, to measure by how near to training pictures new ones are.
        features: a directory with a vision model, whose features come first; see `vision_model`.
        most: how many training pictures to compare with at most; the time goes with its square.
        seed: of all that is drawn.

    Raises:
        NelboError: samples of another shape, or features that cannot be read.
    """
    if len(samples) < LEAST_SAMPLES or len(train) < LEAST_REAL:
        return None
    levels, real = train.levels, some_of(train.images, most, seed)
    spaces: Sequence[FeatureSpace] = [
        *([] if features is None else [vision_model(features, levels)]),
        principal_components(real, levels),
        random_convolutions(real, levels),
    ]
    nearest = nearest_training(
        samples, train.images, None if held_out is None else held_out.images, levels, seed=seed
    )
    return SampleReading(
        tuple(sample_quality(samples, real, levels, spaces=spaces, most=most, seed=seed)),
        nearest,
        _pairs(samples, train, nearest),
    )


def _pairs(samples: Tensor, train: ImageData, nearest: Nearest) -> Pairs:
    """The pairs of least distance."""
    chosen = nearest.distance.argsort(stable=True)[:SHOWN_PAIRS]
    found = train.take(nearest.index[chosen])
    mirrored = nearest.mirrored[chosen].view(-1, 1, 1, 1)
    return Pairs(
        samples[chosen],
        torch.where(mirrored, found.images.flip(-1), found.images),
        found.names,
        tuple(nearest.distance[chosen].tolist()),
        train.levels,
    )
