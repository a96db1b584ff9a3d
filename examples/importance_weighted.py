"""How much do several paths tighten the bound? Gaussian data, and the images of a run.

    python examples/importance_weighted.py [RUN]

prints the importance-weighted bound against the number of paths S for chains of K levels
(docs/tighter-bounds.md explains the tables).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

import nelbo
from nelbo import Continuous, Diffusion, NoiseSchedule
from nelbo.runs.run_data import check_data, data_for_run
from nelbo.runs.run_directory import RunDirectory
from nelbo.samplers.grid import spaced_levels

STD = 0.5
SHAPE = (1, 4, 4)
PATHS = (1, 4, 16, 64)
LENGTHS = (3, 5, 10, 25)
EXAMPLES = 500
IMAGES = 12


def denoiser(schedule: NoiseSchedule) -> Callable[..., torch.Tensor]:
    """E[ε|x_t] for data N(0, STD²)."""

    def network(x_t: torch.Tensor, time: torch.Tensor, condition: object = None) -> torch.Tensor:
        signal = schedule.alphas_cumprod[time + 1].to(x_t).view(-1, 1, 1, 1)
        return (1 - signal).sqrt() * x_t / (signal * STD**2 + 1 - signal)

    return network


def table(title: str, unit: str) -> Table:
    found = Table(title=f"{title}, {unit}")
    for name in ("K", *(f"S = {paths}" for paths in PATHS)):
        found.add_column(name, justify="right")
    return found


@torch.no_grad()
def main() -> None:
    generator = torch.Generator().manual_seed(0)
    console = Console()
    x_0 = STD * torch.randn(EXAMPLES, *SHAPE, generator=generator)
    truth = torch.distributions.Normal(0.0, STD).log_prob(x_0).sum() / x_0.numel()
    gaussian = table(f"Gaussian data, log p(x) is {truth:.3f}", "nats/dim")
    parent = NoiseSchedule.geometric(1000)
    for K in LENGTHS:
        levels = spaced_levels(1000, K, "linspace")
        chain = Diffusion(
            denoiser(parent), parent, variance="fixed_large", data=Continuous(), shape=SHAPE
        ).respace(levels)
        bounds = [
            chain.importance_weighted_elbo(x_0, paths=paths, generator=generator) for paths in PATHS
        ]
        gaussian.add_row(str(K), *(f"{b.sum() / x_0.numel():.3f}" for b in bounds))
    console.print(gaussian)
    if len(sys.argv) < 2:
        return
    model = nelbo.load(sys.argv[1])
    if not isinstance(model, Diffusion):
        sys.exit(f"{sys.argv[1]} is not a model of pixels")
    source = check_data(RunDirectory.open(sys.argv[1]), None, "test")
    data = data_for_run(source, model).take(slice(IMAGES))
    images = model.data.to_network(data.images)
    condition = data.condition() if model.num_classes else None
    bits = table(f"{IMAGES} test images of {data.source}", "bits/dim")
    for K in LENGTHS[:-1]:
        chain = model.respace(spaced_levels(model.num_levels, K, "linspace"))
        row = []
        for paths in PATHS:
            bound = chain.importance_weighted_elbo(
                images, condition, paths=paths, generator=generator
            )
            row.append(f"{-bound.sum() / images.numel() / math.log(2):.3f}")
        bits.add_row(str(K), *row)
    console.print(bits)


if __name__ == "__main__":
    main()
