r"""How a model is used to code: which levels of its chain, which variances, which grid.

A short chain of K optimal levels with optimal variances (docs/short-chains.md) codes an image in K
network calls. Both come from a profile of the chain's levels; where the model has none, it is
measured on some of the images to code. The archive holds the levels and the variances, so that to
decode no profile is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from nelbo.base.arguments import check_count
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import draw
from nelbo.chain.model import Model
from nelbo.coding.arithmetic import LOG_STEPS
from nelbo.coding.chain_code import FINE
from nelbo.coding.turns import Turns
from nelbo.diffusion import LevelProfile, level_profile, optimal_levels

# How many levels a chain keeps where no number is asked for.
STEPS = 30
# What a missing profile is measured on: images, and levels for each that is kept.
_MEASURED_IMAGES, _MEASURED_LEVELS = 16, 2
_SCALED_ON = 8


@dataclass(frozen=True)
class Plan:
    """What encoder and decoder share beside the model.

    Attributes:
        levels: those of the model's chain that are kept; None for a model without one.
        scales: 64 log √Σ_t of p(x_{t−1}|x_t) for each kept level, integers.
        steps: log₂ of the grid's step at every level from 0; None for a model without latents.
        turns: the numbers of `Turns`, likewise.
    """

    levels: list[int] | None = None
    scales: list[int] | None = None
    steps: list[int] | None = None
    turns: list[int] | None = None

    def to_json(self) -> dict[str, Any]:
        """For the header of an archive: of each list the first number, and then the differences."""
        return {
            name: [b - a for a, b in pairwise([0, *value])]
            for name, value in asdict(self).items()
            if value is not None
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Plan:
        """The plan that `to_json` wrote."""
        return cls(**{name: list(accumulate(steps)) for name, steps in content.items()})

    def applied(self, model: Model) -> Model:
        """The model with the levels and variances of this plan.

        Raises:
            NelboError: levels that its chain does not have.
        """
        if self.levels is None or self.scales is None:
            return model
        short = model.respace(self.levels)
        scales = torch.tensor([0, *self.scales], dtype=torch.float64) / LOG_STEPS
        profile = LevelProfile.of_variances(short.chain.schedule, (2 * scales).exp())
        return short.with_profile(profile, variance="analytic")


def plan_for(
    model: Model,
    x_0: Tensor,
    condition: Callable[[list[int]], Condition | None],
    steps: int | None,
) -> Plan:
    """The plan with the best bound for a number of levels.

    Args:
        model: of float64.
        x_0: the images to code, in data space.
        condition: that of some of them, by index.
        steps: K; None takes 30, or all of a shorter chain.

    Raises:
        NelboError: more steps than levels, or any for a model without a chain.
    """
    generator = torch.Generator().manual_seed(0)
    levels = scales = None
    if model.chain is not None:
        T = model.chain.num_levels
        K = min(STEPS, T) if steps is None else steps
        check_count("steps", K)
        if K > T:
            raise NelboError(f"steps must lie in 1..{T}, the levels of the chain, got {K}")
        profile = model.chain.profile or _measured(model, x_0, condition, K, generator)
        levels = optimal_levels(profile, K)
        fitted = model.with_profile(profile, variance="analytic").respace(levels).chain
        scales = [round(LOG_STEPS * math.log(s)) for s in _stddevs(fitted)]
    elif steps is not None:
        raise NelboError(f"{model.noun} has no levels to choose from: leave steps out")
    chain = Plan(levels, scales).applied(model).latent_chain
    if chain is None:
        return Plan()
    some = _spread(_SCALED_ON, len(x_0))
    given = condition(some)
    found = chain.scales(x_0[some], given, generator=generator)
    grid = (found / FINE).log2().floor().int().tolist()
    turns = Turns.paid_for(chain, x_0[some], given, grid, generator)
    return Plan(levels, scales, grid, list(astuple(turns)))


def _spread(count: int, of: int) -> list[int]:
    """The places of at most `count` of `of` images, far apart: neighbours are often alike."""
    return torch.linspace(0, of - 1, min(count, of)).round().long().tolist()


def _stddevs(chain: Any) -> list[float]:
    """√Σ_t at levels 1..T of a chain whose variances are one number a level."""
    return chain.reverse_variance.least[1:].sqrt().tolist()


@torch.no_grad()
def _measured(
    model: Model,
    x_0: Tensor,
    condition: Callable[[list[int]], Condition | None],
    steps: int,
    generator: torch.Generator,
) -> LevelProfile:
    """A profile of the chain on some of the images."""
    some = _spread(_MEASURED_IMAGES, len(x_0))
    states = draw(model.encode(x_0[some]), generator)
    count = min(_MEASURED_LEVELS * steps, model.chain.num_levels)
    return level_profile(model.chain, states, condition(some), levels=count, generator=generator)
