"""How fast images are coded: a progress bar that keeps the time."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter
from typing import Any, Self

from nelbo.base.console import Counting


class Pace(Counting):
    """A progress bar of images that keeps when some of them were done."""

    def __enter__(self) -> Self:
        self._times = [perf_counter()]
        return super().__enter__()

    def __call__(self, done: float = 0, **fields: Any) -> None:
        """More images are done."""
        self._times.append(perf_counter())
        super().__call__(done, **fields)

    def passes(self, count: int) -> list[float]:
        """The seconds of each of a number of passes over the images, each of as many calls."""
        calls = (len(self._times) - 1) // count
        ends = self._times[:: max(1, calls)]
        return [b - a for a, b in pairwise(ends)][:count]
