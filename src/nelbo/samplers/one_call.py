"""What samples a model without a chain: the model itself, in one call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators
from nelbo.chain.model import Model
from nelbo.diffusion import NoiseLevel
from nelbo.diffusion.sampler import Sampler, State, Step
from nelbo.samplers.base import DATA
from nelbo.samplers.default import default_sampler


def suited_sampler(model: Model, steps: int) -> Sampler:
    """What suits a model where nobody asks for a sampler, in about `steps` calls an image."""
    return OneCall() if model.chain is None else default_sampler(model.chain.schedule, steps)


@dataclass(frozen=True)
class OneCall:
    """Draws every image in one call of `Model.sample`; the only state is the image."""

    @property
    def skip(self) -> int:
        """No step is left out."""
        return 0

    def path(self, schedule: Any) -> list[Step]:
        """The one step, which ends in data."""
        return [(DATA, DATA)]

    def timesteps(self, schedule: Any) -> list[float]:
        """No network time: there is no network of a chain."""
        return []

    def start_level(self, schedule: Any) -> NoiseLevel:
        """That of data."""
        return DATA

    @torch.no_grad()
    def walk(
        self,
        model: Any,
        x: Tensor,
        *,
        condition: Condition | None = None,
        generator: Generators | None = None,
    ) -> Iterator[State]:
        """The samples as one state with t = 0; the length of `x` is their number."""
        drawn = model.sample(len(x), condition=condition, generator=generator)
        yield State(drawn, drawn, 0)

    def iterate(
        self,
        model: Any,
        x_T: Tensor,
        *,
        condition: Condition | None = None,
        guidance: Any = 1.0,
        generator: Generators | None = None,
    ) -> Iterator[State]:
        """As `walk`: there is no noise to start from, and nothing to guide."""
        return self.walk(model, x_T, condition=condition, generator=generator)

    def sample(self, model: Any, x_T: Tensor, **options: Any) -> Tensor:
        """The samples themselves."""
        return next(self.iterate(model, x_T, **options)).x
