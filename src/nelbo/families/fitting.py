"""How far a fit is, step by step, and when its time is over."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar


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
_PATIENCE = 5

# A fit as it goes on; closed, it leaves a model that can be used.
Steps = Generator[FitStep, None, None]
Found = TypeVar("Found")


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


def iterate(
    step: Callable[[], tuple[Found, float, float]],
    finish: Callable[[Found], None],
    least: float,
    budget: Budget,
    patience: int = _PATIENCE,
) -> Steps:
    """Iterations of EM, until they no longer help or the time is over.

    Args:
        step: makes one. It returns what is to be kept of it, and the cost of fitted and of held-out
            images, nats; the second decides where it is not nan.
        finish: makes the model that of the best iteration, which it is given.
        least: the smallest improvement that counts, nats, which several iterations may make
            together.
        budget: when the time is over.
        patience: how many iterations in a row may come without one.
    """
    lowest, since = math.inf, 0
    for number in itertools.count(1):
        found, nats, held = step()
        cost = nats if math.isnan(held) else held
        since = 0 if cost < lowest - least else since + 1
        if since == 0 or number == 1:
            best, lowest = found, cost
        is_last = since >= patience or budget.is_over
        if is_last:
            finish(best)
        yield FitStep(number, float(number), nats, held)
        if is_last:
            return
