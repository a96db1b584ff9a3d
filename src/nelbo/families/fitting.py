"""How far a fit is, step by step, and when its time is over."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass


@dataclass(frozen=True)
class FitStep:
    """One step of a fit: an iteration of EM, or an update of a network's weights.

    Attributes:
        number: of this step, from 1.
        passes: how often each training image has been seen.
        nats: what the step minimises, −log p(x) or what stands for it, mean over its images.
        held_out: the cost of the held-out images where they were evaluated, else nan.
    """

    number: int
    passes: float
    nats: float
    held_out: float = math.nan


# Iterations of EM without an improvement of the held-out images, before it ends.
PATIENCE = 5

# A fit as it goes on; closed, it leaves a model that can be used.
Steps = Generator[FitStep, None, None]


class Budget:
    """A span of wall-clock time.

    Args:
        seconds: how long it is; None for ever.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._start = time.monotonic()

    @property
    def has_end(self) -> bool:
        """Whether there is a time at which it is over."""
        return math.isfinite(self._seconds)

    @property
    def used(self) -> float:
        """The share of the time that is used up, 1 or more at its end; 0 without an end."""
        return (time.monotonic() - self._start) / self._seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return self.used >= 1


class Patience:
    """Whether a figure that should fall still does.

    Args:
        least: the smallest improvement that counts, which several figures may make together.
        steps: how many figures in a row may come without one.

    Attributes:
        improved: whether the last figure did.
    """

    def __init__(self, least: float, steps: int = 1) -> None:
        self._least, self._steps = least, steps
        self._best, self._since = math.inf, 0
        self.improved = False

    def is_over(self, value: float) -> bool:
        """Take the next figure; whether there were too many without an improvement."""
        self.improved = value < self._best - self._least
        self._best = value if self.improved else self._best
        self._since = 0 if self.improved else self._since + 1
        return self._since >= self._steps
