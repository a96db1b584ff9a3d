"""What a step of each sampler costs beyond its network call, beside diffusers' schedulers.

    python benchmarks/sampler_overhead.py [--json FILE] [--seconds S] [--threads N]

The network is the UNet that `nelbo train` builds for 32×32 colour pictures, with a batch of 16. A
call of it takes a thousand times as long as the rest of a step, so that its noise would hide the
overhead. Instead each sampler walks with a network that returns at once, which leaves the overhead
of the sampler. Walks of nelbo, walks of diffusers and calls of the true network take turns in one
process; the share is of their medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
from rich.console import Console
from rich.table import Table

from nelbo import Diffusion
from nelbo.data import ImageData
from nelbo.formats.scheduler import scheduler_config
from nelbo.samplers import DDIM, DDPM, DPMSolver, Euler, Heun, Sampler
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig

SHAPE = (3, 32, 32)
BATCH = 16
STEPS = 20
SAMPLERS: dict[str, Sampler] = {
    "DDPM": DDPM(STEPS),
    "DDIM": DDIM(STEPS),
    "DDIM, η = 1": DDIM(STEPS, eta=1.0),
    "DPM-Solver++ 1": DPMSolver(STEPS, 1),
    "DPM-Solver++ 2": DPMSolver(STEPS, 2),
    "DPM-Solver++ 3": DPMSolver(STEPS, 3),
    "DPM-Solver++ 2, SDE": DPMSolver(STEPS, 2, stochastic=True),
    "Euler": Euler(STEPS),
    "Heun": Heun(STEPS),
}


class Overhead(NamedTuple):
    """Median milliseconds of a step beyond its network call, and their share of that call."""

    sampler: str
    nelbo_ms: float
    nelbo_share: float
    diffusers_ms: float
    diffusers_share: float


class Instant(torch.nn.Module):
    """Answers at once, with as many channels as the true network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.output = torch.zeros(BATCH, channels, *SHAPE[1:])

    def forward(self, x: torch.Tensor, time: torch.Tensor, condition: Any) -> torch.Tensor:
        return self.output


def true_model() -> Diffusion:
    """An untrained model as `nelbo train` builds it."""
    images = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    return build_model(ModelConfig(), ImageData("nothing", images, 256, ("0",))).eval()


def peer_walk(model: Diffusion, sampler: Sampler) -> Callable[[], None]:
    """The same walk by diffusers' scheduler."""
    config = scheduler_config(model, sampler)
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    scheduler.set_timesteps(STEPS)
    channels = SHAPE[0] * (2 if isinstance(sampler, DDPM) else 1)
    output = torch.zeros(BATCH, channels, *SHAPE[1:])
    options = {"eta": sampler.eta} if isinstance(sampler, DDIM) else {}

    def walk() -> None:
        x = torch.randn(BATCH, *SHAPE)
        scheduler.set_timesteps(STEPS)
        with torch.no_grad():
            for step_time in scheduler.timesteps:
                scheduler.scale_model_input(x, step_time)
                x = scheduler.step(output, step_time, x, **options).prev_sample

    return walk


def own_walk(model: Diffusion, sampler: Sampler) -> Callable[[], None]:
    """A walk by nelbo."""

    def walk() -> None:
        model.sample(BATCH, sampler)

    return walk


def milliseconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def measure(seconds: float) -> tuple[float, list[Overhead]]:
    """Milliseconds of a network call, and the overhead of each sampler."""
    true = true_model()
    instant = true.replace(network=Instant(SHAPE[0] * true.output_multiple))
    x = torch.randn(BATCH, *SHAPE)

    def call() -> None:
        with torch.no_grad():
            true.network(x, torch.full((BATCH,), 500), None)

    walks = {
        name: (own_walk(instant, sampler), peer_walk(instant, sampler))
        for name, sampler in SAMPLERS.items()
    }
    for function in (call, *(walk for pair in walks.values() for walk in pair)):
        function()
    call_times: list[float] = []
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in walks}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(call_times) < 3:
        call_times.append(milliseconds(call))
        for name, pair in walks.items():
            for taken, walk in zip(times[name], pair, strict=True):
                taken.append(milliseconds(walk))
    call_ms = statistics.median(call_times)
    overheads = []
    for name, sampler in SAMPLERS.items():
        calls = len(sampler.timesteps(true.schedule))
        own, peer = (statistics.median(taken) / calls for taken in times[name])
        overheads.append(Overhead(name, own, own / call_ms, peer, peer / call_ms))
    return call_ms, overheads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long to measure")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    call_ms, overheads = measure(arguments.seconds)
    table = Table(title=f"Beyond a network call of {call_ms:.0f} ms, 32×32, batch {BATCH}")
    for column in ("sampler", "nelbo ms", "share", "diffusers ms", "share"):
        table.add_column(column, justify="left" if column == "sampler" else "right")
    for o in overheads:
        shares = f"{o.nelbo_share:.2%}", f"{o.diffusers_share:.2%}"
        table.add_row(o.sampler, f"{o.nelbo_ms:.2f}", shares[0], f"{o.diffusers_ms:.2f}", shares[1])
    Console().print(table)
    if arguments.json:
        figures = {"call_ms": call_ms, "overheads": [o._asdict() for o in overheads]}
        arguments.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
