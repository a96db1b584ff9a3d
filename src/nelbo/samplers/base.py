"""What all samplers share: they are generators of states, and `sample` is the last one.

A sampler is a `walk` from the level that it starts at. `iterate` is the walk that starts from pure
noise, which it must not do where there is signal left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators
from nelbo.diffusion import Diffusion, NoiseLevel, NoiseSchedule
from nelbo.diffusion.start import warn_of_signal
from nelbo.networks.guidance import Guidance


@dataclass(frozen=True)
class State:
    """Where a sampler is after a step.

    Attributes:
        x: the state x_t, (B, C, H, W).
        x_0: the data that the model predicted at the step that led here, (B, C, H, W).
        t: the level of x, or the nearest where it lies between two; 0 when done.
    """

    x: Tensor
    x_0: Tensor
    t: int


class Sampler(ABC):
    """A way to walk the decoder chain.

    A notebook, a progress bar and a test drive the same loop::

        for state in sampler.iterate(model, model.start(16)):
            show(state.x_0)
    """

    @abstractmethod
    def timesteps(self, schedule: NoiseSchedule) -> Sequence[float]:
        """The network times visited, descending."""

    def state_times(self, schedule: NoiseSchedule) -> Sequence[float]:
        """The network time that each step starts at, descending: one for each state."""
        return self.timesteps(schedule)

    def start_level(self, schedule: NoiseSchedule) -> NoiseLevel:
        """The noise level that the walk starts from, and the first that the network is told."""
        return schedule.noise_level(schedule.level_of(self.timesteps(schedule)[0]))

    @abstractmethod
    def walk(
        self,
        model: Diffusion,
        x: Tensor,
        *,
        condition: Condition | None = None,
        guidance: float | Guidance = 1.0,
        generator: Generators | None = None,
    ) -> Iterator[State]:
        """Walk from a state x at `start_level` to x_0, one state a step; the last has t = 0."""

    def iterate(
        self,
        model: Diffusion,
        x_T: Tensor,
        *,
        condition: Condition | None = None,
        guidance: float | Guidance = 1.0,
        generator: Generators | None = None,
    ) -> Iterator[State]:
        """Walk from x_T ~ N(0, I) to x_0, one state a step; the last one has t = 0.

        Warns where the walk starts at a level that still holds signal; a sampler that skips steps
        is one that goes on from a state of another walk.
        """
        if not getattr(self, "skip", 0):
            level = self.start_level(model.schedule)
            warn_of_signal(model.schedule, level, type(self).__name__)
        return self.walk(model, x_T, condition=condition, guidance=guidance, generator=generator)

    @torch.no_grad()
    def sample(
        self,
        model: Diffusion,
        x_T: Tensor,
        *,
        condition: Condition | None = None,
        guidance: float | Guidance = 1.0,
        generator: Generators | None = None,
    ) -> Tensor:
        """x_0 from x_T, (B, C, H, W)."""
        states = self.iterate(
            model, x_T, condition=condition, guidance=guidance, generator=generator
        )
        x = x_T
        for state in states:
            x = state.x
        return x
