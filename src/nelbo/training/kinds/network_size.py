r"""The width of a network that suits the machine, the pictures and the time to train.

A network too wide for its time sees too few examples, a narrow one has learned what it can long
before the end. For a given amount of computation, the number of weights P and of examples E that
serve best grow alike (Hoffmann et al. 2022, "Training compute-optimal large language models", found
:math:`E \propto P` for text). The widest network is chosen for which

.. math:: E = \frac{\text{time}}{\text{time an image}} \ge r P,

with the time an image measured here and now. As the time an image grows with P, a budget sixteen
times as long doubles the width. docs/decisions/0014-a-size-that-fits.md derives r.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from nelbo.base.console import notice
from nelbo.data import ImageData
from nelbo.training.options import TrainOptions
from nelbo.training.processes import Processes
from nelbo.training.threads import use_fastest_threads

# r: how many examples a weight is to see.
EXAMPLES_PER_WEIGHT = 0.05
# Seconds that timing one candidate may take, but for its first step.
_SECONDS = 0.5
# Images of a step that is timed: enough to fill a CPU, and quick on it.
_IMAGES = {"cpu": 16, "cuda": 64, "mps": 64}
# Resolutions of a network, at most.
_MOST_WIDTHS = 16


@dataclass(frozen=True)
class Candidate:
    """A network that may be trained.

    Attributes:
        widths: its channels at each resolution.
        weights: how many it has.
        step: runs forward and backward of a step of training.
    """

    widths: tuple[int, ...]
    weights: int
    step: Callable[[], object]


# The candidates of a kind, from the narrowest on, whose steps are of a number of images.
Candidates = Callable[[int], Iterator[Candidate]]


@dataclass(frozen=True)
class FittingNetwork:
    """A network that was chosen, and what is expected of it.

    Attributes:
        widths: its channels at each resolution.
        weights: how many it has.
        seconds_per_image: what an example of training takes, forward and backward.
        examples: how many the time is enough for.
    """

    widths: tuple[int, ...]
    weights: int
    seconds_per_image: float
    examples: float


def fitting_widths(
    candidates: Candidates,
    options: TrainOptions,
    data: ImageData,
    seconds: float,
    processes: Processes,
) -> tuple[int, ...]:
    """What the first process measures and reports; every process goes by it.

    Args:
        candidates: of the kind.
        options: what is asked for.
        data: the images to train on.
        seconds: the time to train.
        processes: who trains.
    """
    widths: tuple[int, ...] = ()
    if processes.is_main:
        device = processes.device
        most = options.training.batch_size // processes.count
        images = max(1, min(_IMAGES.get(device.type, 16), most))
        found = choose_network(
            candidates(images),
            seconds,
            images * processes.count,
            device,
            threads=options.threads,
        )
        widths = found.widths
        passes = ""
        if data.stream is None:
            passes = f", {found.examples / len(data):,.0f} passes over {len(data):,}"
        notice(
            f"Network: {' '.join(map(str, widths))} channels, {found.weights / 1e6:.2f}M weights, "
            f"as the time is enough for about {found.examples:,.0f} images{passes} (--widths "
            "chooses another)"
        )
    every = processes.sum([float(width) for width in widths + (0,) * (_MOST_WIDTHS - len(widths))])
    return tuple(int(width) for width in every if width)


def choose_network(
    candidates: Iterable[Candidate],
    seconds: float,
    images: int,
    device: torch.device,
    *,
    threads: int | None = None,
) -> FittingNetwork:
    """The widest network that sees enough examples in the time; else the narrowest candidate.

    Candidates are built and timed from the narrowest on, each for about a second.

    Args:
        candidates: from the narrowest on.
        seconds: the time to train.
        images: of a step, over all processes.
        device: where the candidates are.
        threads: CPU threads, where they are fixed; otherwise the faster of one and all is timed.
    """
    chosen: FittingNetwork | None = None
    for candidate in candidates:
        each = _seconds_of_step(candidate, device, threads) / images
        found = FittingNetwork(candidate.widths, candidate.weights, each, seconds / each)
        if chosen is not None and found.examples < EXAMPLES_PER_WEIGHT * candidate.weights:
            break
        chosen = found
    assert chosen is not None
    return chosen


def _seconds_of_step(candidate: Candidate, device: torch.device, threads: int | None) -> float:
    """The least time that forward and backward of a step took."""

    def step() -> None:
        candidate.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type != "cpu" or threads is not None:
            return _least_seconds(step)
        most = torch.get_num_threads()
        try:
            use_fastest_threads(step, most)
            return _least_seconds(step)
        finally:
            torch.set_num_threads(most)


def _least_seconds(step: Callable[[], None]) -> float:
    """The fastest of at least two repetitions, which met the least of what else runs."""
    step()
    least, begun = float("inf"), time.perf_counter()
    for repetition in range(1000):
        start = time.perf_counter()
        if repetition >= 2 and start - begun > _SECONDS:
            break
        step()
        least = min(least, time.perf_counter() - start)
    return least
