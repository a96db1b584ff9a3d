r"""How many modes of the data samples reach: mode collapse as a count.

A *mode* is a cluster of the training pictures (k-means in their principal components). A sample
belongs to the mode whose centre is nearest, if it is like a training picture at all: within the
ball around one that reaches to its third neighbour, as for precision. Then

- a mode is *reached* where a sample belongs to it (Srivastava et al. 2017 count modes so);
- it is *off* where the share of all samples, like a picture or not, whose nearest centre is its
  own differs from that of training pictures, by a two-sided test of two proportions at 5% (the bins
  of Richardson & Weiss 2018).

Few modes that are reached are a collapse; many that are off, a partial one.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from nelbo.evidence.feature_spaces import features_of, principal_components, some_of
from nelbo.evidence.inputs import check_pictures
from nelbo.evidence.sample_quality import MOST_REAL, among

# Clusters, for at least this number of training pictures each.
MODES, _LEAST = 25, 10
# Runs of k-means, of which the best is taken, and rounds of each.
_RUNS, _ROUNDS = 10, 50
# A ball around a training picture reaches to this neighbour, or the last.
_NEIGHBOURS = 3
# 5% of a standard normal lie beyond.
_CRITICAL = 1.959964
# Divisions of the real pictures in two.
_DIVISIONS = 5


@dataclass(frozen=True)
class Modes:
    """The modes of the data, and which of them samples reach.

    Attributes:
        count: how many there are.
        reached: how many hold a sample.
        off: how many hold another share of samples than of training pictures.
        real_reached: as `reached`, of as many real pictures, at most half of them, against the
            others; the mean over random divisions.
        real_off: as `off`, likewise.
    """

    count: int
    reached: float
    off: float
    real_reached: float
    real_off: float

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


def count_modes(
    samples: UInt8[Tensor, "n channels height width"],
    real: UInt8[Tensor, "m channels height width"],
    levels: int,
    *,
    seed: int = 0,
) -> Modes:
    """The modes of the training pictures that samples reach.

    Args:
        samples: pixel levels 0..levels−1, (N, C, H, W).
        real: those trained on, alike; at most 5,000 of them, drawn at random, are used.
        levels: how many levels a pixel has.
        seed: of all that is drawn.
    """
    check_pictures(samples=samples, real=real)
    real = some_of(real, MOST_REAL, seed)
    space = principal_components(real, levels)
    drawn, kept = features_of(space, samples, real)
    generator = torch.Generator().manual_seed(seed)
    centres = k_means(kept, max(1, min(MODES, len(kept) // _LEAST)), generator)
    count = min(len(drawn), len(kept) // 2)
    beside = []
    for _ in range(_DIVISIONS):
        order = torch.randperm(len(kept), generator=generator)
        beside.append(_held(kept[order[:count]], kept[order[count:]], centres))
    reached, off = _held(drawn, kept, centres)
    means = torch.tensor(beside, dtype=torch.float64).mean(0)
    return Modes(len(centres), reached, off, *means.tolist())


def k_means(
    points: Float[Tensor, "n features"], count: int, generator: torch.Generator
) -> Float[Tensor, "count features"]:
    """The centres of the best of some runs of Lloyd's algorithm, from k-means++ (Arthur &
    Vassilvitskii 2007)."""
    best, chosen = math.inf, points[:count]
    for _ in range(_RUNS):
        centres = _spread(points, count, generator)
        for _ in range(_ROUNDS):
            distance, nearest = torch.cdist(points, centres).min(1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, points)
            held = torch.bincount(nearest, minlength=count)[:, None]
            moved = torch.where(held > 0, sums / held.clamp(min=1), centres)
            if torch.equal(moved, centres):
                break
            centres = moved
        if (cost := float(distance.square().sum())) < best:
            best, chosen = cost, centres
    return chosen


def _spread(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points as first centres, each far from those before it."""
    chosen = [points[int(torch.randint(len(points), (), generator=generator))]]
    squares = torch.full_like(points[:, 0], math.inf)
    for _ in range(count - 1):
        squares = torch.minimum(squares, (points - chosen[-1]).square().sum(1))
        weights = squares if bool(squares.sum() > 0) else torch.ones_like(squares)
        chosen.append(points[int(torch.multinomial(weights, 1, generator=generator))])
    return torch.stack(chosen)


def _held(points: Tensor, reference: Tensor, centres: Tensor) -> tuple[int, int]:
    """How many modes hold one of the points, and how many another share than of the reference."""
    neighbours = min(_NEIGHBOURS, len(reference) - 1)
    reached = _counts(points[among(points, reference, neighbours)], centres) > 0
    held, expected = _counts(points, centres), _counts(reference, centres)
    n, m = len(points), len(reference)
    pooled = (held + expected) / (n + m)
    error = (pooled * (1 - pooled) * (1 / n + 1 / m)).sqrt()
    differ = (held / n - expected / m).abs() > _CRITICAL * error
    return int(reached.sum()), int(differ.sum())


def _counts(points: Tensor, centres: Tensor) -> Int[Tensor, " count"]:
    return torch.bincount(torch.cdist(points, centres).argmin(1), minlength=len(centres))
