"""Ranks among candidates, and shares of trials with their intervals."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


def ranks(scores: Tensor, right: Tensor) -> Tensor:
    """The place of the right candidate in each row of scores, from 1, (N,) int64.

    A candidate with the same score as the right one counts as before it, so that uninformative
    scores give the last place.

    Args:
        scores: of each candidate, higher is better, (N, C).
        right: the index of the right candidate of each row, (N,) int64.
    """
    own = scores.gather(1, right[:, None])
    # Not "at least": what is not a number must not count as a good place.
    return torch.where(own.isnan(), scores.shape[1], (~(scores < own)).sum(1, keepdim=True))[:, 0]


class Share(NamedTuple):
    """A share of trials with its 95% interval."""

    mean: float
    low: float
    high: float
    trials: int

    def __str__(self) -> str:
        return f"{self.mean:.1%} ({self.low:.1%} to {self.high:.1%})"


def wilson(successes: int, trials: int) -> Share:
    """The share of successes with its 95% score interval (Wilson 1927).

    (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n), with z = Φ⁻¹(0.975).
    """
    z = 1.959963984540054
    p = successes / trials
    middle = p + z * z / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
    scale = 1 + z * z / trials
    # The ends are exactly 0 and 1 where no trial or every trial succeeds.
    low = 0.0 if successes == 0 else (middle - half) / scale
    high = 1.0 if successes == trials else (middle + half) / scale
    return Share(p, low, high, trials)


def within(places: Tensor, k: int) -> Share:
    """The share of ranks that are at most k."""
    return wilson(int((places <= k).sum()), len(places))
