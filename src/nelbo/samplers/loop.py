"""The one loop of all walks along a chain: samplers go down it, edits up it as well.

A walk is a path, the noise levels that each step leads from and to, and a rule for one step.
Guidance is part of the model that is walked, so that no rule knows of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators, randn_like
from nelbo.diffusion import Diffusion, NoiseLevel, NoiseSchedule, Prediction
from nelbo.diffusion.sampler import State, Step

# Predictions of earlier steps that are kept for multistep rules.
_KEPT = 3


@dataclass
class Walk:
    """A walk under way: what a step rule reads beside the state.

    Attributes:
        model: the chain that is walked.
        condition: what its network is conditioned on, one entry an example.
        generator: the source of all noise, or one an example.
        dtype: that of the states; a step may compute in another.
        steps: how many steps the walk has.
        taken: how many of them were taken.
        past: level and predicted x_0 of the last steps taken, the latest first.
    """

    model: Diffusion
    condition: Condition | None
    generator: Generators | None
    dtype: torch.dtype
    steps: int
    taken: int = 0
    past: list[tuple[NoiseLevel, Tensor]] = field(default_factory=list)

    def predict(self, x: Tensor, level: NoiseLevel) -> Prediction:
        """What the model predicts at a state of any noise level, which may have its own scale."""
        level, scale = level.in_chain()
        return self.model.predict_at((x / scale).to(self.dtype), level, self.condition)

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal noise of the shape of a state."""
        return randn_like(like, self.generator)


class StepRule(ABC):
    """A path along a chain and the rule of one step."""

    @abstractmethod
    def path(self, schedule: NoiseSchedule) -> list[Step]:
        """The noise levels that each step leads from and to; there is one state a step."""

    @abstractmethod
    def step(
        self, walk: Walk, x: Tensor, level: NoiseLevel, following: NoiseLevel, /
    ) -> tuple[Tensor, Tensor]:
        """From x at `level` to the state at `following`, and the x_0 predicted for it."""

    def prepare(self, model: Diffusion) -> Diffusion:
        """The chain to walk, where it is not the whole of the model's."""
        return model

    @torch.no_grad()
    def walk(
        self,
        model: Diffusion,
        x: Tensor,
        *,
        condition: Condition | None = None,
        generator: Generators | None = None,
    ) -> Iterator[State]:
        """Take each step of the path from a state x at its first level, one state a step."""
        path = self.path(model.schedule)
        walk = Walk(self.prepare(model), condition, generator, x.dtype, len(path))
        for level, following in path:
            x, x_0 = self.step(walk, x, level, following)
            x = x.to(walk.dtype)
            walk.past = [(level, x_0), *walk.past[: _KEPT - 1]]
            walk.taken += 1
            yield State(x, x_0, following.t)
