"""How fast images are coded: a progress bar that keeps the time."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter
from typing import Any

from nelbo.base.console import counting_progress


class Pace:
    """A progress bar, called with how many more images are done.

    Args:
        title: what the bar shows.
    """

    def __init__(self, title: str) -> None:
        self._progress = counting_progress()
        self._task = self._progress.add_task(title, total=None, status="")
        self._times: list[float] = []

    def __enter__(self) -> Pace:
        self._progress.__enter__()
        self._times = [perf_counter()]
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)

    def __call__(self, done: int) -> None:
        """More images are done."""
        self._times.append(perf_counter())
        self._progress.advance(self._task, done)

    def passes(self, count: int) -> list[float]:
        """The seconds of each of a number of passes over the images, each of as many calls."""
        calls = (len(self._times) - 1) // count
        ends = self._times[:: max(1, calls)]
        return [b - a for a, b in pairwise(ends)][:count]
