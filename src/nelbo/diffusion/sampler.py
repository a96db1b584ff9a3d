"""What a model asks of a sampler; `nelbo.samplers` has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from nelbo.base.arguments import described
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators
from nelbo.diffusion.noise_level import NoiseLevel
from nelbo.diffusion.schedule import NoiseSchedule
from nelbo.networks.guidance import Guidance

# The noise levels that a step leads from and to.
Step = tuple[NoiseLevel, NoiseLevel]


@dataclass(frozen=True)
class State:
    """Where a walk along a chain is after a step.

    Attributes:
        x: the state x_t, (B, C, H, W).
        x_0: the data that the model predicted at the step that led here, (B, C, H, W).
        t: the level of x, or the nearest where it lies between two; 0 when done.
    """

    x: Tensor
    x_0: Tensor
    t: int


@runtime_checkable
class Sampler(Protocol):
    """A way to walk the decoder chain of a model, a `Diffusion`.

    A notebook, a progress bar and a test drive the same loop::

        for state in sampler.iterate(model, model.start(16)):
            show(state.x_0)
    """

    @property
    def skip(self) -> int:
        """How many of the first steps are left out."""

    def path(self, schedule: NoiseSchedule) -> list[Step]:
        """The noise levels that each step leads from and to; there is one state a step."""

    def timesteps(self, schedule: NoiseSchedule) -> Sequence[float]:
        """The network time of each call, descending; fractional between levels of the chain."""
        return [level.network_time for level, _ in self.path(schedule)]

    def start_level(self, schedule: NoiseSchedule) -> NoiseLevel:
        """The noise level that the walk starts from."""
        return self.path(schedule)[0][0]

    def walk(
        self,
        model: Any,
        x: Tensor,
        *,
        condition: Condition | None = None,
        generator: Generators | None = None,
    ) -> Iterator[State]:
        """Walk from a state x at `start_level` to x_0, one state a step; the last has t = 0."""

    def iterate(
        self,
        model: Any,
        x_T: Tensor,
        *,
        condition: Condition | None = None,
        guidance: float | Guidance = 1.0,
        generator: Generators | None = None,
    ) -> Iterator[State]:
        """Walk from x_T ~ N(0, I) to x_0, one state a step; the last has t = 0."""

    @torch.no_grad()
    def sample(
        self,
        model: Any,
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
        return last(states, x_T)


def last(states: Iterable[State], x: Tensor) -> Tensor:
    """x of the last state of a walk from x."""
    for state in states:
        x = state.x
    return x


def check_sampler(sampler: Any) -> None:
    """Raise `NelboError` unless this is a sampler, or None for the whole ancestral chain."""
    if sampler is None or (isinstance(sampler, Sampler) and not isinstance(sampler, type)):
        return
    found = f"the class {sampler.__name__}" if isinstance(sampler, type) else described(sampler)
    raise NelboError(
        f"sampler is {found}, expected one of nelbo.samplers or None: pass one such as "
        "nelbo.samplers.DDIM(50)"
    )
