"""Ancestral sampling (Ho et al. 2020, algorithm 2), on the whole chain or a respaced one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators, draw
from nelbo.diffusion import Diffusion, NoiseSchedule
from nelbo.networks.guidance import Guidance
from nelbo.samplers.base import Sampler, State
from nelbo.samplers.spacing import checked_levels, remaining_steps, spaced_levels


@dataclass(frozen=True)
class DDPM(Sampler):
    """Draws each x_{t-1} from p(x_{t-1}|x_t).

    Args:
        steps: number of network calls; None visits every level. Fewer levels make a respaced
            chain, which is an MHVAE of its own (Nichol & Dhariwal 2021, section 4).
        spacing: which levels: "leading", "linspace" or "trailing".
        steps_offset: added to the levels of "leading"; 1 in Stable Diffusion.
        skip: how many of the first steps to leave out; x_T is then what the next one starts from.
        levels: the levels to visit, increasing, in place of steps and spacing.

    Raises:
        NelboError: nothing is left after `skip`.
    """

    steps: int | None = None
    spacing: str = "trailing"
    steps_offset: int = 0
    skip: int = 0
    levels: Sequence[int] | None = None

    def timesteps(self, schedule: NoiseSchedule) -> list[int]:
        """The network times visited, descending."""
        levels = self.visited(schedule)
        return [int(schedule.network_times[t]) for t in reversed(levels)]

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
        levels = self.visited(model.schedule)
        chain = model.guided(guidance).respace(levels)
        for t in range(chain.num_levels, 0, -1):
            prediction = chain.predict(x, t, condition)
            step = chain.step_from(prediction, t)
            x = draw(step, generator) if t > 1 else step.mean
            yield State(x, prediction.x_0, levels[t - 2] if t > 1 else 0)

    def visited(self, schedule: NoiseSchedule) -> list[int]:
        """The levels visited, increasing."""
        T = schedule.num_levels
        if self.levels is not None:
            levels = checked_levels(T, self.levels)
        elif self.steps is None:
            levels = spaced_levels(T, T, self.spacing)
        else:
            levels = spaced_levels(T, self.steps, self.spacing, self.steps_offset)
        return levels[: remaining_steps(len(levels), self.skip)]
