r"""Euler's method on the probability-flow ODE of Karras et al. 2022, with their churn.

In terms of :math:`\bar x = x / \sqrt{\bar\alpha} = x_0 + \sigma\epsilon` and of σ(t) = t the ODE is
(eq. 1), with a denoiser :math:`D(\bar x; t)` of data,

.. math:: \frac{d\bar x}{dt} = \frac{\bar x - D(\bar x; t)}{t}.

Each step raises its noise a little by fresh noise, the *churn*, and follows the slope at its start.
That leads to the state at the end of the step on the straight line through the predicted data and
noise, whatever the coordinates: Euler's method on the ODE of flow matching is the same.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar

from torch import Tensor

from nelbo.base.arguments import check_numbers
from nelbo.base.errors import NelboError
from nelbo.diffusion import NoiseLevel, NoiseSchedule
from nelbo.samplers.base import SigmaSampler
from nelbo.samplers.loop import Walk


@dataclass(frozen=True)
class Euler(SigmaSampler):
    """Algorithm 2 of Karras et al. 2022 without the correction of second order.

    Args:
        steps: N.
        S_churn: how much noise to add over the walk; 0 is deterministic.
        S_tmin: the least σ that it is added at.
        S_tmax: the largest σ that it is added at.
        S_noise: the scale of the noise that is added.

    The other options are those of `SigmaSampler`. Without `noise_levels` and `spacing` the levels
    are those of "karras", on a chain that ends without signal of "flow", between its ends.

    Raises:
        NelboError: a negative churn, or what is no number.
    """

    _: KW_ONLY
    S_churn: float = 0.0
    S_tmin: float = 0.0
    S_tmax: float = math.inf
    S_noise: float = 1.0

    usual_spacing: ClassVar[str] = "linspace"
    usual_levels: ClassVar[str] = "karras"

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("S_churn", "S_tmin", "S_tmax", "S_noise")
        check_numbers(**{name: getattr(self, name) for name in names})
        if not self.S_churn >= 0:
            raise NelboError(f"S_churn must be at least 0, got {self.S_churn}")

    def step(
        self, walk: Walk, x: Tensor, level: NoiseLevel, following: NoiseLevel
    ) -> tuple[Tensor, Tensor]:
        """Lines 4 to 8 of algorithm 2."""
        x_hat, hat = self.churn(walk, x, level)
        x_0 = walk.predict(x_hat, hat).x_0
        return straight(x_hat, x_0, hat, following), x_0

    def churn(self, walk: Walk, x: Tensor, level: NoiseLevel) -> tuple[Tensor, NoiseLevel]:
        """Lines 4 to 6: x with its noise raised from t to t + γ t; float64, as σ may be large."""
        t = level.sigma
        x = x if x.device.type == "mps" else x.double()
        within = self.S_tmin <= t <= self.S_tmax
        gamma = min(self.S_churn / walk.steps, math.sqrt(2) - 1) if within else 0.0
        if gamma == 0 or t == math.inf:  # where all is noise, more of it changes nothing
            return x, level
        hat = walk.model.schedule.at_sigma(t + gamma * t)
        added = math.sqrt(hat.sigma**2 - t**2) * self.S_noise * walk.noise(x)
        return hat.signal_scale * (x / level.signal_scale + added), hat

    def grid(self, schedule: NoiseSchedule) -> list[NoiseLevel]:
        """The noise level that each step leads from, descending, before any is left out."""
        open_choice = self.noise_levels is None and self.spacing is None
        if open_choice and schedule.alphas_cumprod[-1] == 0:
            return replace(self, noise_levels="flow").grid(schedule)
        return super().grid(schedule)


def straight(x: Tensor, x_0: Tensor, level: NoiseLevel, following: NoiseLevel) -> Tensor:
    """The state at `following` on the line through x_0 and the noise that x holds with it."""
    kept = following.noise_scale / level.noise_scale
    return kept * x + (following.signal_scale - kept * level.signal_scale) * x_0
