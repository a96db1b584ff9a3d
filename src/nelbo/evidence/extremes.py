"""The images that surprise a model least and most, evaluated until their order is known."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.chain.bound import Bound
from nelbo.chain.distributions import generator_for
from nelbo.chain.evidence import Evidence, joined
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.evidence.evaluation import evaluate
from nelbo.evidence.pilot import estimator_of

# Candidates for each image that is shown.
_CANDIDATES = 2
# Levels and draws of x_1 of a candidate: at first, and at most.
_FIRST_LEVELS, _FIRST_DRAWS = 8, 4
_MOST_LEVELS = 128
# Standard errors of a difference at which two images are distinguished, 95% of the time.
_APART = 1.96


@dataclass(frozen=True)
class Extremes:
    """Images at one end, from the outside in, by draws that did not choose them.

    Attributes:
        data: the images.
        index: which of those that were evaluated they are.
        bound: of each, from draws of its own.
        places: the first and the last place that each may have among the candidates, from 1, where
            those whose difference is within its error, with 95% probability, may change places.
    """

    data: ImageData
    index: Int[Tensor, " images"]
    bound: Evidence
    places: tuple[tuple[int, int], ...]

    @property
    def in_order(self) -> bool:
        """Whether every one is known to have the place that it is shown in."""
        return all(first == last for first, last in self.places)

    def first(self, count: int) -> Extremes:
        """The outermost images."""
        some = slice(count)
        return Extremes(
            self.data.take(some), self.index[some], self.bound.take(some), self.places[some]
        )


def possible_places(
    values: Float[Tensor, " images"], errors: Float[Tensor, " images"]
) -> list[tuple[int, int]]:
    """The first and last place of each of some values, the largest having place 1.

    Two values are apart where they differ by more than 1.96 standard errors of their difference.
    """
    above = _above((values, errors), (values, errors))
    first = 1 + above.sum(0)
    last = len(values) - above.sum(1)
    return list(zip(first.tolist(), last.tolist(), strict=True))


def _above(high: tuple[Tensor, Tensor], low: tuple[Tensor, Tensor]) -> Tensor:
    """Which of some values, the rows, exceed which of others by more than the error of each
    difference; an unknown error distinguishes nothing. Both are given with their errors."""
    (values, errors), (others, of_others) = high, low
    error = _APART * (errors.square()[:, None] + of_others.square()[None, :]).sqrt()
    return values[:, None] - others[None, :] > error  # False where the error is nan


def find_extremes(
    model: Model,
    data: ImageData,
    bound: Evidence,
    proposal: Tensor,
    *,
    shown: int,
    seconds: float,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Extremes, Extremes]:
    """The least and the most surprising of images that have been evaluated.

    The bound that is given chooses twice as many candidates as are shown. These are evaluated anew,
    so that chance does not count twice, and further until the order of those shown is known, the
    time is spent, or each has been evaluated at 128 levels. See `told_apart`.

    Args:
        model: the model.
        data: the images.
        bound: of each.
        proposal: where to draw levels, (T−1,); see `nelbo.chain.estimators.Importance`.
        shown: how many to find at each end, at most half of all.
        seconds: about how long it may take.
        seed: of the noise.
        clock: the clock, in seconds.
    """
    end = clock() + seconds
    order = bound.bits_per_dim.detach().cpu().double().nan_to_num(nan=math.inf).argsort()
    half = max(1, len(order) // 2)
    ends = order[: min(_CANDIDATES * shown, half)], order.flip(0)[: min(_CANDIDATES * shown, half)]
    index, split = torch.cat(ends), len(ends[0])
    candidates = data.take(index)
    found: Any = None
    levels, draws, stage = _FIRST_LEVELS, _FIRST_DRAWS, 0
    while True:
        start = clock()
        estimator, noise = estimator_of(draws, levels, proposal), generator_for(seed, 5, stage)
        new = joined(evaluate(model, candidates, levels=estimator, generator=noise))
        found = new if found is None else Bound.merge([found, new])
        lists = (
            _end(candidates, index, found, slice(0, split), shown, least=True),
            _end(candidates, index, found, slice(split, None), shown, least=False),
        )
        took, stage = clock() - start, stage + 1
        done = found.levels.shape[1]
        if model.chain is None:  # more calls would give the same
            return lists
        if (lists[0].in_order and lists[1].in_order) or done + levels > _MOST_LEVELS:
            return lists
        if stage > 1:
            levels, draws = 2 * levels, 2 * draws
            took *= 2
        if clock() + took > end:
            return lists


def told_apart(least: Extremes, most: Extremes) -> tuple[Extremes, ...]:
    """As many of both ends as are known to differ from those at the other; none at all, ().

    They are counted from the outside in, and each pair differs with 95% probability.
    """
    apart = _above(_bits(most.bound), _bits(least.bound))
    counts = range(1, min(apart.shape) + 1)
    count = max((n for n in counts if bool(apart[:n, :n].all())), default=0)
    return (least.first(count), most.first(count)) if count else ()


def _bits(bound: Evidence) -> tuple[Tensor, Tensor]:
    """Bits per dimension of each image, infinite where they are not known, and their errors."""
    bits = bound.bits_per_dim.detach().cpu().double().nan_to_num(nan=math.inf)
    variance = bound.monte_carlo_variance.detach().cpu().double()
    return bits, variance.sqrt() / bound.nats_per_bit_per_dim


def _end(
    candidates: ImageData, index: Tensor, bound: Evidence, some: slice, shown: int, *, least: bool
) -> Extremes:
    """Of some candidates those to show."""
    own = torch.arange(len(candidates))[some]
    bits, errors = (of_all[own] for of_all in _bits(bound))
    values = -bits if least else bits
    places = possible_places(values, errors)
    order = values.argsort(descending=True, stable=True)[:shown]
    chosen = own[order]
    return Extremes(
        candidates.take(chosen),
        index[chosen],
        bound.take(chosen),
        tuple(places[i] for i in order.tolist()),
    )
