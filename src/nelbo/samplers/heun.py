"""The sampler of Karras et al. 2022: Heun's method on the probability-flow ODE, with churn."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nelbo.diffusion import NoiseLevel, NoiseSchedule
from nelbo.samplers.euler import D, Euler
from nelbo.samplers.loop import Walk


@dataclass(frozen=True)
class Heun(Euler):
    """Algorithm 2 of Karras et al. 2022: two network calls a step but for the last.

    Options as `Euler`. The defaults are the discretisation of the paper.
    """

    def step(
        self, walk: Walk, x: Tensor, level: NoiseLevel, following: NoiseLevel
    ) -> tuple[Tensor, Tensor]:
        """Lines 4 to 11 of algorithm 2, on x̄ = x_0 + σε."""
        x_hat, hat = self.churn(walk, x, level)
        t_hat, t_next = hat.sigma, following.sigma
        x_0 = D(walk, x_hat, hat)
        d = (x_hat - x_0) / t_hat
        x_next = x_hat + (t_next - t_hat) * d
        if t_next != 0:
            d_next = (x_next - D(walk, x_next, following)) / t_next
            x_next = x_hat + (t_next - t_hat) * (0.5 * d + 0.5 * d_next)
        return following.signal_scale * x_next, x_0

    def timesteps(self, schedule: NoiseSchedule) -> list[float]:
        """The network times of all calls: the first once, the others twice, descending."""
        first, *others = super().timesteps(schedule)
        return [first, *(time for time in others for _ in range(2))]
