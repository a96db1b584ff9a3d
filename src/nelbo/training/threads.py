"""How many CPU threads to use: measured, not assumed.

Two threads are faster than one only where two cores are free. On a busy machine they wait for each
other at every small operation, and one thread alone can be several times faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

_REPEATS = 4
# Seconds beside which what a first call takes more does not matter.
_SLOW = 0.5
# Measuring again may take this share of the time since the last measurement.
_SHARE = 0.02


class ThreadTuner:
    """Uses as many threads as are fastest, and looks again now and then as the load changes.

    Args:
        step: the work to time.
    """

    def __init__(self, step: Callable[[], object]) -> None:
        self._step = step
        self._most = torch.get_num_threads()
        self._measured = float("-inf")
        self._cost = 0.0

    def tune(self) -> int:
        """Measure now, keep the fastest setting, and return it."""
        start = time.perf_counter()
        threads = use_fastest_threads(self._step, self._most)
        self._measured = time.perf_counter()
        self._cost = self._measured - start
        return threads

    def tune_again(self) -> None:
        """Measure if the last time is long ago beside what measuring costs."""
        if self._most > 1 and self._cost < _SHARE * (time.perf_counter() - self._measured):
            self.tune()


def use_fastest_threads(step: Callable[[], object], most: int | None = None) -> int:
    """Time `step` with one thread and with all, keep the faster setting, and return it."""
    most = most or torch.get_num_threads()
    seconds = {threads: _time(step, threads) for threads in {1, most}}
    best = min(seconds, key=lambda threads: seconds[threads])
    torch.set_num_threads(best)
    return best


def _time(step: Callable[[], object], threads: int) -> float:
    """Seconds of a step; of one that is slow, its first call is enough."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    if first > _SLOW:
        return first
    start = time.perf_counter()
    for _ in range(_REPEATS):
        step()
    return (time.perf_counter() - start) / _REPEATS
