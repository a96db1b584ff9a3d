"""How many CPU threads to use: measured, not assumed.

Two threads are faster than one only where two cores are free. On a busy machine they wait for each
other at every small operation, and one thread alone can be several times faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

REPEATS = 4
# Seconds beside which what a first call takes more does not matter.
_SLOW = 0.5


def use_fastest_threads(step: Callable[[], object]) -> int:
    """Time `step` with one thread and with all, keep the faster setting, and return it."""
    seconds = {threads: _time(step, threads) for threads in {1, torch.get_num_threads()}}
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
    for _ in range(REPEATS):
        step()
    return (time.perf_counter() - start) / REPEATS
