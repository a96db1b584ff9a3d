r"""By how much one model needs fewer bits for an image than another, to an error of the difference.

Both draw the same rounds from the same seed (`nelbo.evidence.image_rounds`), and what is averaged
is the difference of each draw: where the chains have states of one shape, both meet the same noise
and what is common to their costs cancels. The estimate is unbiased and its error holds, whether or
not they have anything in common.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.bound import Bound
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import generator_for
from nelbo.chain.evidence import Evidence, joined
from nelbo.chain.model import Model
from nelbo.chain.variances import variance_of_mean
from nelbo.evidence.image_rounds import A_COPY, ImageRounds, LevelChoice, Round, at_once
from nelbo.evidence.one_image import Refined, check_error, to_error
from nelbo.evidence.reading_levels import first_guess

# What draws a round, by the number of draws of level 1 and that of the others.
Side = Callable[[int, int], Round]


@dataclass(frozen=True)
class Contender:
    """A model, and how it is asked about the image.

    Attributes:
        model: the model, evaluated where its weights are.
        x_0: the image in its network space, (1, C, H, W).
        condition: what it is conditioned on, of one example.
    """

    model: Model
    x_0: Float[Tensor, "one channels height width"]
    condition: Condition | None = None


class Pair(NamedTuple):
    """How far the difference of two models' bits is known.

    Attributes:
        each: the evidence of each, of the same draws.
        difference: that of first − second; negative where the first model needs fewer bits. Its
            error is by the differences of draws, its calls are those of each network.
    """

    each: tuple[Evidence, Evidence]
    difference: Refined


@torch.no_grad()
def refine_difference(
    contenders: tuple[Contender, Contender], error: float, *, seed: int = 0, most: int = 20_000
) -> Iterator[Pair]:
    """Evaluate two models on one image to an error of the difference; the last is the result.

    Args:
        contenders: the two models, with the same image.
        error: Monte Carlo standard error of the difference to reach, bits per dimension.
        seed: of all noise.
        most: evaluations of each network that the plan may take.

    Raises:
        NelboError: models of different data, an error that is not positive, data that a model does
            not take, or a model without a probability.
    """
    check_error(error)
    check_same_data(*contenders)
    guesses = [first_guess(each.model.chain) for each in contenders]
    choices = [LevelChoice(guess) for guess in guesses]
    if len(guesses[0]) == len(guesses[1]):
        # The same levels for both, so that more is common to them.
        choices = [LevelChoice((guesses[0] + guesses[1]) / 2)] * 2
    sides = [
        _in_one_call(each, seed) if each.model.chain is None else _drawn(each, choice, seed)
        for each, choice in zip(contenders, choices, strict=True)
    ]
    drawn: list[tuple[Evidence, Evidence]] = []

    def draw(count: int, levels: int) -> Bound:
        a, b = (side(count, levels) for side in sides)
        for choice, side in zip(choices, (a, b), strict=True):
            choice.learn(side.above)
        drawn.append((Bound.merge(a.parts), Bound.merge(b.parts)))
        return _difference(a, b)

    for reading in to_error(draw, error, most):
        a, b = (Bound.merge(side) for side in zip(*(drawn[k] for k in reading.rounds), strict=True))
        yield Pair((a, b), reading)


def check_same_data(first: Contender, second: Contender) -> None:
    """Raise `NelboError` for models whose bits are of different data."""
    if first.x_0.shape != second.x_0.shape or first.model.data != second.model.data:
        raise NelboError(
            "the two models take pictures of different sizes or levels, so that their bits are of "
            f"different data: {_takes(first)} and {_takes(second)}"
        )


def _drawn(contender: Contender, choice: LevelChoice, seed: int) -> Side:
    contender.model.check_data(contender.x_0)
    return ImageRounds(contender.model, contender.x_0, contender.condition, choice, seed).draw


def _in_one_call(contender: Contender, seed: int) -> Side:
    """Rounds of a model without levels: a copy of the image for every two draws of level 1.

    Where its evidence has no noise, every copy costs the same.
    """
    model, x_0, condition = contender.model, contender.x_0, contender.condition
    rounds = itertools.count()

    def evidence(copies: int, noise: torch.Generator) -> Evidence:
        repeated = None if condition is None else condition.repeat(copies)
        return model.evidence(x_0.expand(copies, *x_0.shape[1:]), repeated, generator=noise)

    known = evidence(1, generator_for(seed, 6))
    if known.kind == "none":
        raise NelboError("a model that gives pictures no probability needs no bits for them")
    varies = bool((known.monte_carlo_variance != 0).any())

    def draw(first: int, levels: int) -> Round:
        copies, found, noise = -(-first // A_COPY), known, generator_for(seed, 5, next(rounds))
        if copies and varies:
            found = joined(evidence(size, noise) for size in at_once(copies, x_0))
        return Round(_as_bound(found, copies, A_COPY) if first else None, _as_bound(known, 1, 0))

    return draw


def _as_bound(evidence: Evidence, copies: int, calls: int) -> Bound:
    """The costs of copies, of each or of one for all, as a bound whose draws are of level 1."""
    nothing = torch.zeros(copies, dtype=torch.float64)
    no_levels = nothing[:, None][:, :0]
    return Bound(
        reconstruction=nothing - evidence.total.double().cpu(),
        prior_matching=nothing,
        score_matching=no_levels,
        levels=no_levels.long(),
        weights=no_levels,
        dims=evidence.dims,
        reconstruction_variance=nothing + evidence.monte_carlo_variance.double().cpu(),
        reconstruction_calls=torch.full((copies,), calls),
    )


def _difference(a: Round, b: Round) -> Bound:
    """The difference of two rounds as a bound, whose draws are the differences of theirs."""
    above = a.above if a.above.levels.shape[1] else b.above
    columns = torch.zeros_like(above.score_matching, dtype=torch.float64)
    for sign, side in ((1, a.above), (-1, b.above)):
        if side.levels.shape[1]:
            columns = columns + sign * (side.weights * side.score_matching).double()
    first = torch.zeros(0, dtype=torch.float64)
    if a.copies is not None and b.copies is not None:
        first = a.copies.elbo.double() - b.copies.elbo.double()
    return Bound(
        reconstruction=first.mean(0, keepdim=True),
        prior_matching=torch.zeros(1, dtype=torch.float64),
        score_matching=columns,
        levels=above.levels,
        weights=torch.ones_like(columns),
        dims=above.dims,
        reconstruction_variance=variance_of_mean(first[None]),
        reconstruction_calls=torch.tensor([A_COPY * len(first)]),
    )


def _takes(contender: Contender) -> str:
    size = "×".join(map(str, contender.x_0.shape[1:]))
    return f"{size} with {contender.model.data.shown_levels} levels"
