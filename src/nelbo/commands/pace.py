"""How fast images are coded: a progress bar that keeps the time."""

from __future__ import annotations

from time import perf_counter
from typing import Any, Self

from nelbo.base.console import Counting


class Pace(Counting):
    """A progress bar of passes over images, each begun with completed=0, that keeps their time."""

    def __enter__(self) -> Self:
        self._times: list[list[float]] = []
        return super().__enter__()

    def __call__(self, done: float = 0, **fields: Any) -> None:
        """A pass begins, or more images are done."""
        if "completed" in fields:
            self._times.append([])
            self.bar.reset(self._task, **fields)
        self._times[-1].append(perf_counter())
        super().__call__(done)

    @property
    def passes(self) -> list[float]:
        """The seconds of each pass in which any image was done."""
        return [times[-1] - times[0] for times in self._times if times[1:]]
