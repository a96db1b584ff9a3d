"""How many CPU threads to use: measured, not assumed.

Two threads are faster than one only where two cores are free. On a busy machine they wait for each
other at every small operation, and one thread alone can be several times faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

# How often a step is repeated at most, and the seconds of repetitions after which no more is.
_REPEATS, _SECONDS = 4, 0.5
# Seconds beside which what a first step takes more does not matter.
_SLOW = 1.0


def use_fastest_threads(step: Callable[[], object]) -> float:
    """Time `step` with one thread and with all, keep the faster setting, and return its seconds."""
    seconds: dict[int, float] = {}
    for threads in {1, torch.get_num_threads()}:
        torch.set_num_threads(threads)
        seconds[threads] = least_seconds(step)
    best = min(seconds, key=lambda threads: seconds[threads])
    torch.set_num_threads(best)
    return seconds[best]


def least_seconds(step: Callable[[], object]) -> float:
    """The seconds of a step: of a few the least, which met the least of what else runs; of one that
    is slow, those of the first."""

    def timed() -> float:
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    least, spent = timed(), 0.0
    if least < _SLOW:
        for _ in range(_REPEATS):
            if spent < _SECONDS:
                again = timed()
                least, spent = min(least, again), spent + again
    return least
