"""How noisy are the two forms of the bound? Gaussian data, an exact and a poor denoiser.

    python examples/path_variance.py

prints the mean and the standard deviation over draws, in nats per dimension, of the path form and
of the decomposed form of the same ELBO (docs/path-and-terms.md explains the table).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from nelbo import Continuous, Diffusion, NoiseSchedule

STD = 0.5
SHAPE = (1, 4, 4)
EXAMPLES = 20_000


def denoiser(schedule: NoiseSchedule, skill: float) -> Callable[..., torch.Tensor]:
    """E[ε|x_t] for data N(0, STD²), multiplied by `skill`: 1 is exact."""

    def network(x_t: torch.Tensor, time: torch.Tensor, condition: object = None) -> torch.Tensor:
        signal = schedule.alphas_cumprod[time + 1].to(x_t).view(-1, 1, 1, 1)
        return skill * (1 - signal).sqrt() * x_t / (signal * STD**2 + 1 - signal)

    return network


def main() -> None:
    table = Table(title="ELBO of one example: path form against decomposed form, nats/dim")
    for name in ("T", "denoiser", "path", "terms"):
        table.add_column(name, justify="right")
    generator = torch.Generator().manual_seed(0)
    x_0 = STD * torch.randn(1, *SHAPE, generator=generator).expand(EXAMPLES, *SHAPE)
    dims = x_0[0].numel()
    for T in (10, 100, 1000):
        schedule = NoiseSchedule.linear(T, 0.1 / T, min(20 / T, 0.999))
        for name, skill in (("exact", 1.0), ("poor", 0.8)):
            model = Diffusion(
                denoiser(schedule, skill),
                schedule,
                variance="fixed_large",
                data=Continuous(),
                shape=SHAPE,
            )
            cells = []
            for values in (
                model.path_elbo(x_0, generator=generator),
                model.elbo(x_0, generator=generator).elbo,
            ):
                values = values / dims
                cells.append(f"{values.mean():.3f}, std {values.std():.3f}")
            table.add_row(str(T), name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
