"""Time two functions that take turns, and print the ratios.

Taking turns (A B A B ...) in one process, whatever else the machine does slows both: the ratio of
the medians is the figure, absolute times are for orientation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

import torch
from rich.console import Console
from rich.table import Table


class Timing(NamedTuple):
    """Median milliseconds of one step, and the ratios of the medians and of the fastest steps.

    On a busy machine the median depends on the load of other processes; the fastest step had the
    least interference.
    """

    size: int
    batch: int
    what: str
    nelbo_ms: float
    diffusers_ms: float
    ratio: float
    fastest_ratio: float

    @classmethod
    def of(cls, size: int, batch: int, what: str, times: list[list[float]]) -> Self:
        """Read the milliseconds of nelbo and diffusers, as `take_turns` gives them."""
        own, peer = map(statistics.median, times)
        return cls(size, batch, what, own, peer, own / peer, min(times[0]) / min(times[1]))


def take_turns(
    first: Callable[[], None], second: Callable[[], None], seconds: float
) -> list[list[float]]:
    """Milliseconds of every call of two functions that alternate."""
    for _ in range(2):
        first()
        second()
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 3:
        for elapsed, function in zip(times, (first, second), strict=True):
            start = time.perf_counter()
            function()
            elapsed.append(1e3 * (time.perf_counter() - start))
    return times


def run(description: str | None, title: str, measure: Callable[[float], list[Timing]]) -> None:
    """The command line of a benchmark of networks: measure, print, and write JSON on request."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the time spent")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    timings = measure(arguments.scale)
    table = Table(title=f"{title}, float32, {arguments.threads} thread(s), medians")
    for column in ("size", "batch", "what", "nelbo ms", "diffusers ms", "ratio", "fastest"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for t in timings:
        figures = (f"{t.nelbo_ms:.1f}", f"{t.diffusers_ms:.1f}", f"{t.ratio:.3f}")
        table.add_row(
            f"{t.size}×{t.size}", str(t.batch), t.what, *figures, f"{t.fastest_ratio:.3f}"
        )
    Console().print(table)
    if arguments.json:
        rows = [timing._asdict() for timing in timings]
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
