r"""The bits of one image, refined round by round to the error that was asked for.

As `evaluate_to_error`: a few rounds explore how noisy each term is, from which the number of draws
is planned, and rounds that the plan has not seen are what is reported at the end. Until these are
the better estimate, that of the exploration is shown, so that a first one is there at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.bound import Bound
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import generator_for
from nelbo.chain.estimators import EveryLevel, Importance
from nelbo.chain.evidence import Evidence
from nelbo.chain.model import Model
from nelbo.evidence.evaluation import ADDED_SHARE, MARGIN

# Copies of the image that a round evaluates together, and what each of them is evaluated at: draws
# of x_1, of which two have a variance, and levels.
_COPIES, _FIRST, _LEVELS = 4, 2, 8
_EXPLORING = 3
# Rounds of a plan, and network evaluations of one at least.
_ROUNDS, _LEAST_CALLS = 24, 64


@dataclass(frozen=True)
class Refined:
    """How far the bits of an image are known.

    Attributes:
        evidence: of the one image.
        calls: network evaluations so far.
        planned: how many there will be, as far as is known.
        final: whether this is the result.
    """

    evidence: Evidence
    calls: int
    planned: int
    final: bool

    @property
    def error(self) -> float:
        """Monte Carlo standard error of the image's bits/dim."""
        variance = float(self.evidence.monte_carlo_variance[0])
        return math.sqrt(variance) / self.evidence.nats_per_bit_per_dim


@torch.no_grad()
def refine(
    model: Model,
    x_0: Float[Tensor, "one channels height width"],
    condition: Condition | None,
    error: float,
    proposal: Float[Tensor, " candidates"],
    *,
    seed: int = 0,
    most: int = 20_000,
) -> Iterator[Refined]:
    """Evaluate one image to a Monte Carlo error of its bits/dim; the last reading is the result.

    Args:
        model: the model, evaluated where its weights are.
        x_0: the image in network space, (1, C, H, W).
        condition: what the model is conditioned on, of one example.
        error: the standard error to reach, bits per dimension.
        proposal: where levels are drawn, from `proposal_from`; of a model without a chain empty.
        seed: of all noise.
        most: network evaluations that the plan may take; the error then stays above what was asked.

    Raises:
        NelboError: an error that is not positive, or data that the model does not take.
    """
    if not (error > 0 and math.isfinite(error)):
        raise NelboError(f"the error must be positive, in bits per dimension, got {error}")
    model.check_data(x_0)
    if model.chain is None:
        yield Refined(model.evidence(x_0, condition), 1, 1, True)
        return
    rounds = _Rounds(model, x_0, condition, proposal, seed)
    explored: list[Bound] = []
    calls = 0
    for _ in range(_EXPLORING):
        explored.append(rounds.draw(_FIRST, _LEVELS))
        seen = Bound.merge(explored)
        calls = int(seen.calls)
        yield Refined(seen, calls, 2 * _EXPLORING * calls // len(explored), False)
    seen = Bound.merge(explored)
    reported: list[Bound] = []
    first, levels = _plan(seen, (MARGIN * error * seen.nats_per_bit_per_dim) ** 2, most)
    planned, allowed = calls + first + levels, (1 + ADDED_SHARE) * (first + levels)
    taken = 0
    while True:
        for draws in _rounds(first, levels):
            reported.append(rounds.draw(*draws))
            bound = Bound.merge(reported)
            taken = int(bound.calls)
            best = min((Refined(each, 0, 0, False) for each in (seen, bound)), key=_error)
            yield Refined(best.evidence, calls + taken, max(planned, calls + taken), False)
        found = Refined(bound, calls + taken, calls + taken, True)
        excess = found.error / error
        # A plan that was wrong by much is added to once: see docs/decisions/0008.
        if not excess > 1 or taken >= allowed or calls + taken >= most:
            break
        share = min(excess**2 / MARGIN**2 - 1, allowed / taken - 1)
        first, levels = (max(2, math.ceil(share * count)) for count in (first, levels))
        planned = calls + taken + first + levels
    yield found


class _Rounds:
    """Rounds of draws of one image, each with noise of its own."""

    def __init__(
        self,
        model: Model,
        x_0: Tensor,
        condition: Condition | None,
        proposal: Tensor,
        seed: int,
    ) -> None:
        self._model, self._proposal, self._seed = model, proposal, seed
        self._x_0 = x_0.expand(_COPIES, *x_0.shape[1:])
        self._condition = None if condition is None else condition.repeat(_COPIES)
        self._drawn = 0

    def draw(self, first: int, levels: int) -> Bound:
        """The bound of the image from so many draws of each of its copies."""
        estimator: Any = EveryLevel(reconstructions=first)
        if len(self._proposal):
            estimator = Importance(levels, self._proposal, reconstructions=first)
        noise = generator_for(self._seed, 5, self._drawn)
        self._drawn += 1
        drawn: Any = self._model.evidence(
            self._x_0, self._condition, levels=estimator, generator=noise
        )
        drawn = drawn.to("cpu")
        return Bound.merge([drawn.take(slice(i, i + 1)) for i in range(_COPIES)])


def _plan(seen: Bound, variance: float, most: int) -> tuple[int, int]:
    r"""Draws of x_1 and of levels for a variance: of A/R + C/K, by Neyman allocation."""
    first = math.sqrt(float(seen.first_variance) * int(seen.reconstruction_calls))
    rest = float(seen.monte_carlo_variance) - float(seen.first_variance)
    levels = math.sqrt(max(0.0, rest) * int(seen.level_calls))
    if not math.isfinite(first + levels):
        raise NelboError("the bound of this image is not finite, so that its error is not known")
    scale = (first + levels) / variance
    wanted = max(_LEAST_CALLS, math.ceil((first + levels) * scale))
    share = min(1.0, most / wanted)
    total = first + levels or 1.0
    return (
        max(_FIRST * _COPIES, math.ceil(share * wanted * first / total)),
        max(2 * _COPIES, math.ceil(share * wanted * levels / total)),
    )


def _rounds(first: int, levels: int) -> Iterator[tuple[int, int]]:
    """What each copy is drawn at in each of a few rounds, which together are the plan."""
    count = min(_ROUNDS, max(1, (first + levels) // _LEAST_CALLS), max(1, first // (2 * _COPIES)))
    each = [max(2, math.ceil(draws / (count * _COPIES))) for draws in (first, levels)]
    for _ in range(count):
        yield each[0], each[1]


def _error(reading: Refined) -> float:
    error = reading.error
    return error if math.isfinite(error) else math.inf
