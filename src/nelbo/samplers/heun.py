"""The sampler of Karras et al. 2022: Heun's method on the probability-flow ODE, with churn."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nelbo.diffusion import NoiseLevel, NoiseSchedule
from nelbo.samplers.euler import Euler, straight
from nelbo.samplers.loop import Walk


@dataclass(frozen=True)
class Heun(Euler):
    """Algorithm 2 of Karras et al. 2022: two network calls a step but for the last.

    A step from noise without signal, where σ is infinite, is one of `Euler`. Options as `Euler`.
    The defaults are the discretisation of the paper.
    """

    def step(
        self, walk: Walk, x: Tensor, level: NoiseLevel, following: NoiseLevel
    ) -> tuple[Tensor, Tensor]:
        """Lines 4 to 11 of algorithm 2, on x̄ = x_0 + σε."""
        x_hat, hat = self.churn(walk, x, level)
        t_hat, t_next = hat.sigma, following.sigma
        x_0 = walk.predict(x_hat, hat).x_0
        x_next = straight(x_hat, x_0, hat, following)
        if t_next == 0 or hat.signal_scale == 0:
            return x_next, x_0
        bar_hat, bar_next = x_hat / hat.signal_scale, x_next / following.signal_scale
        d = (bar_hat - x_0) / t_hat
        d_next = (bar_next - walk.predict(x_next, following).x_0) / t_next
        bar_next = bar_hat + (t_next - t_hat) * (0.5 * d + 0.5 * d_next)
        return following.signal_scale * bar_next, x_0

    def timesteps(self, schedule: NoiseSchedule) -> list[float]:
        """The network times of all calls: the first once, the others twice, descending."""
        first, *others = super().timesteps(schedule)
        twice = [time for time in others for _ in range(2)]
        if others and self.start_level(schedule).signal_scale == 0:
            del twice[0]
        return [first, *twice]
