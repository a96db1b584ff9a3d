r"""The deterministic and stochastic samplers of Karras et al. 2022.

In terms of :math:`\bar x = x / \sqrt{\bar\alpha} = x_0 + \sigma\epsilon`, the probability-flow ODE
is (eq. 1)

.. math:: \frac{d\bar x}{d\sigma} = d(\bar x, \sigma)
    = \frac{\bar x - \hat x_0(\bar x, \sigma)}{\sigma}.

`Euler` follows the slope at the start of each step, `Heun` the mean of those at its two ends
(algorithm 2). Both can first raise the noise of a step a little, the *churn*.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators, randn_like
from nelbo.diffusion import Diffusion, NoiseLevel, NoiseSchedule
from nelbo.networks.guidance import Guidance
from nelbo.samplers.base import Sampler, State
from nelbo.samplers.noise_levels import NO_NOISE, SigmaChain, noise_scales
from nelbo.samplers.spacing import checked_levels, remaining_steps, spaced_times

# x̂_0 of a state at a noise level.
Denoiser = Callable[[Tensor, NoiseLevel], Tensor]

_LARGEST_CHURN = math.sqrt(2.0) - 1


@dataclass(frozen=True)
class KarrasSampler(Sampler):
    r"""Algorithm 2 of Karras et al. 2022 but for the rule of one step.

    Before a step, σ grows to (1 + γ)σ by fresh noise, with γ = min(S_churn / steps, √2 − 1) where
    S_tmin ≤ σ ≤ S_tmax, else 0.

    Args:
        steps: how many.
        noise_levels: "karras", "log_snr", or "spaced" for those of `spacing` themselves.
        spacing: the ends of the noise levels: those of "leading", "linspace" or "trailing".
        steps_offset: added to the levels of "leading"; 1 in Stable Diffusion.
        skip: how many of the first steps to leave out; x_T is then what the next one starts from.
        levels: levels of the chain to visit, increasing, in place of steps and spacing.
        rho: ρ of "karras"; larger has shorter steps at low noise.
        churn: S_churn, how much noise to add over the walk; 0 is deterministic.
        churn_min: S_tmin, the least σ that it is added at.
        churn_max: S_tmax, the largest σ that it is added at.
        churn_noise: S_noise, the scale of the noise that is added.

    Raises:
        NelboError: a negative churn, or nothing is left after `skip`.
    """

    steps: int = 18
    noise_levels: str = "karras"
    spacing: str = "linspace"
    steps_offset: int = 0
    skip: int = 0
    levels: Sequence[int] | None = None
    rho: float = 7.0
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        if not self.churn >= 0:
            raise NelboError(f"churn must be at least 0, got {self.churn}")

    @torch.no_grad()
    def walk(
        self,
        model: Diffusion,
        x: Tensor,
        *,
        condition: Condition | None = None,
        guidance: float | Guidance = 1.0,
        generator: Generators | None = None,
    ) -> Iterator[State]:
        """Walk from x to x_0, one state a step."""
        guided = model.guided(guidance)

        def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
            return guided.predict_at(x, level, condition).x_0

        chain = SigmaChain(model.schedule)
        walk = [*self._noise_levels(chain), NO_NOISE]
        for level, following in pairwise(walk):
            churned = self._churned(chain, level, len(walk) - 1)
            if churned.sigma > level.sigma:
                x = _add_noise(x, level, churned, self.churn_noise, generator)
            x_0 = denoise(x, churned)
            x = self._step(denoise, x, x_0, churned, following)
            yield State(x, x_0, following.t)

    @abstractmethod
    def _step(
        self, denoise: Denoiser, x: Tensor, x_0: Tensor, level: NoiseLevel, following: NoiseLevel
    ) -> Tensor:
        """The state at the following level."""

    def start_level(self, schedule: NoiseSchedule) -> NoiseLevel:
        """The noise level that the walk starts from, which may lie between two of the chain."""
        return self._noise_levels(SigmaChain(schedule))[0]

    def _noise_levels(self, chain: SigmaChain) -> list[NoiseLevel]:
        levels = self._all_noise_levels(chain)
        return levels[-remaining_steps(len(levels), self.skip) :]

    def _all_noise_levels(self, chain: SigmaChain) -> list[NoiseLevel]:
        T = len(chain.sigmas)
        if self.levels is not None:
            places = np.array(checked_levels(T, self.levels)[::-1]) - 1
            return chain.levels(chain.sigmas_at(places), places)
        times = spaced_times(T, self.steps, self.spacing, self.steps_offset)
        places = np.array(times[::-1])
        sigmas = chain.sigmas_at(places)
        if self.noise_levels != "spaced":
            sigmas = noise_scales(sigmas[0], sigmas[-1], self.steps, self.noise_levels, self.rho)
            places = chain.places_of(sigmas)
        return chain.levels(sigmas, places)

    def _churned(self, chain: SigmaChain, level: NoiseLevel, steps: int) -> NoiseLevel:
        if self.churn == 0 or not self.churn_min <= level.sigma <= self.churn_max:
            return level
        sigma = np.array([level.sigma * (1 + min(self.churn / steps, _LARGEST_CHURN))])
        return chain.levels(sigma, chain.places_of(sigma))[0]


@dataclass(frozen=True)
class Euler(KarrasSampler):
    """Follows the slope at the start of each step; options as `KarrasSampler`."""

    def timesteps(self, schedule: NoiseSchedule) -> list[float]:
        """The network times visited, descending; fractional between levels of the chain."""
        return [level.network_time for level in self._noise_levels(SigmaChain(schedule))]

    def _step(
        self, denoise: Denoiser, x: Tensor, x_0: Tensor, level: NoiseLevel, following: NoiseLevel
    ) -> Tensor:
        return _follow(_slope(x, x_0, level), x_0, following)


@dataclass(frozen=True)
class Heun(KarrasSampler):
    """Follows the mean slope of both ends of each step, in two network calls but for the last.

    Options as `KarrasSampler`. The defaults are the discretisation of Karras et al. 2022.
    """

    def timesteps(self, schedule: NoiseSchedule) -> list[float]:
        """The network times of all calls: the first once, the others twice, descending."""
        first, *others = (level.network_time for level in self._noise_levels(SigmaChain(schedule)))
        return [first, *(time for time in others for _ in range(2))]

    def state_times(self, schedule: NoiseSchedule) -> list[float]:
        """The network time that each step starts at, descending."""
        return [level.network_time for level in self._noise_levels(SigmaChain(schedule))]

    def _step(
        self, denoise: Denoiser, x: Tensor, x_0: Tensor, level: NoiseLevel, following: NoiseLevel
    ) -> Tensor:
        slope = _slope(x, x_0, level)
        x = _follow(slope, x_0, following)
        if following.noise_scale == 0:
            return x
        change = _slope(x, denoise(x, following), following) - slope
        return x + 0.5 * following.signal_scale * (following.sigma - level.sigma) * change


def _slope(x: Tensor, x_0: Tensor, level: NoiseLevel) -> Tensor:
    """d = (x̄ − x̂_0) / σ."""
    return (x - level.signal_scale * x_0) / level.noise_scale


def _follow(slope: Tensor, x_0: Tensor, following: NoiseLevel) -> Tensor:
    """x̄ + (σ' − σ) d at the following level; the same as x̂_0 + σ' d."""
    return following.signal_scale * x_0 + following.noise_scale * slope


def _add_noise(
    x: Tensor, level: NoiseLevel, churned: NoiseLevel, scale: float, generator: Generators | None
) -> Tensor:
    """x̄ + √(σ̂² − σ²) S_noise z at the raised level."""
    added = scale * math.sqrt(churned.sigma**2 - level.sigma**2)
    return churned.signal_scale * (x / level.signal_scale + added * randn_like(x, generator))
