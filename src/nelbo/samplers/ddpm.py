"""Ancestral sampling (Ho et al. 2020, algorithm 2), on the whole chain or a respaced one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.conditioning import Condition
from nelbo.diffusion import Diffusion, NoiseSchedule
from nelbo.distributions import Generators, draw
from nelbo.samplers.base import Sampler, State
from nelbo.samplers.spacing import checked_levels, spaced_levels


@dataclass(frozen=True)
class DDPM(Sampler):
    """Draws each x_{t-1} from p(x_{t-1}|x_t).

    Args:
        steps: number of network calls; None visits every level. Fewer levels make a respaced
            chain, which is an MHVAE of its own (Nichol & Dhariwal 2021, section 4).
        spacing: which levels: "leading", "linspace" or "trailing".
        steps_offset: added to the levels of "leading"; 1 in Stable Diffusion.
        levels: the levels to visit, increasing, in place of all of these.
    """

    steps: int | None = None
    spacing: str = "leading"
    steps_offset: int = 0
    levels: Sequence[int] | None = None

    def timesteps(self, schedule: NoiseSchedule) -> list[int]:
        """The network times visited, descending."""
        levels = self._levels(schedule)
        return [int(schedule.network_times[t]) for t in reversed(levels)]

    @torch.no_grad()
    def iterate(
        self,
        model: Diffusion,
        x_T: Tensor,
        *,
        condition: Condition | None = None,
        guidance: float = 1.0,
        generator: Generators | None = None,
    ) -> Iterator[State]:
        """Walk from x_T to x_0, one state a step."""
        levels = self._levels(model.schedule)
        chain = model.guided(guidance).respace(levels)
        x = x_T
        for t in range(chain.num_levels, 0, -1):
            prediction = chain.predict(x, t, condition)
            step = chain.step_from(prediction, t)
            x = draw(step, generator) if t > 1 else step.mean
            yield State(x, prediction.x_0, levels[t - 2] if t > 1 else 0)

    def _levels(self, schedule: NoiseSchedule) -> list[int]:
        T = schedule.num_levels
        if self.levels is not None:
            return checked_levels(T, self.levels)
        if self.steps is None:
            return spaced_levels(T, T, self.spacing)
        return spaced_levels(T, self.steps, self.spacing, self.steps_offset)
