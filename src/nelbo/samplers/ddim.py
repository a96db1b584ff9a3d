r"""Denoising diffusion implicit models (Song et al. 2021).

Any process with the encoder's marginals :math:`q(x_t|x_0)` can be sampled with the same network.
From level t to a lower level s, with :math:`\hat x_0` and :math:`\hat\epsilon` predicted at t
(eqs. 12 and 16),

.. math::
    x_s &= \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\, \hat\epsilon
        + \sigma z, \qquad z \sim N(0, I), \\
    \sigma^2 &= \eta^2\, \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}
        \left(1 - \frac{\bar\alpha_t}{\bar\alpha_s}\right).

η = 0 is deterministic, an integrator of the probability-flow ODE; η = 1 is the ancestral chain
through the same levels with the variance `fixed_small`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators, randn_like
from nelbo.diffusion import Diffusion, NoiseSchedule, Prediction
from nelbo.networks.guidance import Guidance
from nelbo.samplers.base import Sampler, State
from nelbo.samplers.spacing import checked_levels, remaining_steps, spaced_levels


@dataclass(frozen=True)
class DDIM(Sampler):
    """Steps along the line through the predicted data and noise.

    Args:
        steps: number of network calls.
        eta: η in 0..1, from deterministic to ancestral.
        spacing: which levels: "leading", "linspace" or "trailing".
        steps_offset: added to the levels of "leading"; 1 in Stable Diffusion.
        set_alpha_to_one: the last step goes to the data, ᾱ_0 = 1; else to the noise of level 1,
            whose draw is taken for the data, as Stable Diffusion does.
        even_stride: each step goes T // steps levels down, as in diffusers, even where the next
            level visited is another one ("linspace", or a chain that the steps do not divide).
            False goes to the next level visited, as in the paper.
        skip: how many of the first steps to leave out; x_T is then what the next one starts from.
        levels: the levels to visit, increasing, in place of steps and spacing; each step then
            goes to the next of them.

    Raises:
        NelboError: η outside 0..1, or nothing is left after `skip`.
    """

    steps: int = 50
    eta: float = 0.0
    spacing: str = "trailing"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    even_stride: bool = True
    skip: int = 0
    levels: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise NelboError(f"eta must lie in 0..1, got {self.eta}")

    def timesteps(self, schedule: NoiseSchedule) -> list[int]:
        """The network times visited, descending."""
        return [int(schedule.network_times[t]) for t, _ in self._pairs(schedule)]

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
        last = 0 if self.set_alpha_to_one else 1
        for t, s in self._pairs(model.schedule):
            prediction = guided.predict(x, t, condition)
            target = s if s > 0 else last
            x = _step(prediction, model.schedule, t, target, self.eta, generator)
            yield State(x, prediction.x_0, s)

    def visited(self, schedule: NoiseSchedule) -> list[int]:
        """The levels that the network is called at, increasing."""
        return [t for t, _ in reversed(self._pairs(schedule))]

    def _pairs(self, schedule: NoiseSchedule) -> list[tuple[int, int]]:
        """From which level to which each step goes; the last one to level 0."""
        T = schedule.num_levels
        if self.levels is not None:
            levels = checked_levels(T, self.levels)
        else:
            levels = spaced_levels(T, self.steps, self.spacing, self.steps_offset)
        targets = levels[:-1]
        if self.even_stride and self.levels is None:
            targets = [t - T // self.steps for t in levels[1:]]
        pairs = list(zip(reversed(levels), [*reversed(targets), 0], strict=True))
        return pairs[-remaining_steps(len(levels), self.skip) :]


def _step(
    prediction: Prediction,
    schedule: NoiseSchedule,
    t: int,
    s: int,
    eta: float,
    generator: Generators | None,
) -> Tensor:
    """x_s of eq. 12 from what was predicted at level t."""
    noise_s, noise_t = float(schedule.noise_power[s]), float(schedule.noise_power[t])
    signal_s, signal_t = float(schedule.alphas_cumprod[s]), float(schedule.alphas_cumprod[t])
    variance = eta**2 * noise_s / noise_t * (1 - signal_t / signal_s)
    direction = math.sqrt(max(0.0, noise_s - variance))
    x = math.sqrt(signal_s) * prediction.x_0 + direction * prediction.epsilon
    if variance > 0:
        x = x + math.sqrt(variance) * randn_like(x, generator)
    return x
