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
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from nelbo.data import ImageData
from nelbo.diffusion import Diffusion
from nelbo.diffusion.continuous import ContinuousDiffusion
from nelbo.diffusion.objectives import Objective
from nelbo.training.kinds.pixel.build import build_model, default_depth
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.task import trained_module
from nelbo.training.kinds.transformer import WIDTHS
from nelbo.training.threads import use_fastest_threads

# Channels of a UNet at the first resolution; the others have twice as many.
CANDIDATES = (16, 24, 32, 48, 64, 96, 128, 192, 256)
# r: how many examples a weight is to see.
EXAMPLES_PER_WEIGHT = 0.05
# Seconds that timing one candidate may take, but for its first step.
_SECONDS = 0.5
# Images of a step that is timed: enough to fill a CPU, and quick on it.
_IMAGES = {"cpu": 16, "cuda": 64, "mps": 64}


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


def choose_network(
    config: ModelConfig,
    data: ImageData,
    seconds: float,
    batch_size: int,
    device: torch.device,
    *,
    threads: int | None = None,
    processes: int = 1,
) -> FittingNetwork:
    """The widest network that sees enough examples in the time; else the narrowest candidate.

    Candidates are built and timed from the narrowest on, each for about a second.

    Args:
        config: the model, whose widths are to be chosen.
        data: the images.
        seconds: the time to train.
        batch_size: images a step, over all processes.
        device: where to.
        threads: CPU threads, where they are fixed; otherwise the faster of one and all is timed.
        processes: how many divide the images of a step.
    """
    images = max(1, min(_IMAGES.get(device.type, 16), batch_size // processes))
    chosen: FittingNetwork | None = None
    for widths in _candidates(config, data):
        with torch.random.fork_rng([]):
            model = build_model(replace(config, widths=widths), data).to(device)
        weights = sum(parameter.numel() for parameter in model.parameters())
        each = _seconds_per_image(model, data, images, device, threads) / processes
        found = FittingNetwork(widths, weights, each, seconds / each)
        if chosen is not None and found.examples < EXAMPLES_PER_WEIGHT * weights:
            break
        chosen = found
    assert chosen is not None
    return chosen


def _candidates(config: ModelConfig, data: ImageData) -> list[tuple[int, ...]]:
    if config.network == "dit":
        return [(width,) for width in WIDTHS]
    depth = default_depth(*data.shape[1:])
    return [(base, *[2 * base] * (depth - 1)) for base in CANDIDATES]


def _seconds_per_image(
    model: Diffusion | ContinuousDiffusion,
    data: ImageData,
    images: int,
    device: torch.device,
    threads: int | None,
) -> float:
    """The least time that forward and backward of a step took, a part for each image."""
    generator = torch.Generator(device).manual_seed(0)
    x_0 = torch.rand((images, *data.shape), generator=generator, device=device) * 2 - 1
    objective = trained_module(model, Objective())

    def step() -> None:
        objective(x_0, None, generator=generator).loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    model.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type != "cpu" or threads is not None:
            return _least_seconds(step) / images
        most = torch.get_num_threads()
        try:
            use_fastest_threads(step, most)
            return _least_seconds(step) / images
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
