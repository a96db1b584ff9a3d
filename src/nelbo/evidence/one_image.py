r"""The bits of one image, refined round by round to the error that was asked for.

As `evaluate_to_error`: a few rounds explore how noisy each term is, from which the number of draws
is planned, and rounds that the plan has not seen are what is reported at the end. Until these are
as many, that of the exploration is shown, so that a first one is there at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.bound import Bound
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import generator_for
from nelbo.chain.evidence import Evidence
from nelbo.chain.model import Model
from nelbo.evidence.allocation import ADDED_SHARE, MARGIN, DrawSpread
from nelbo.evidence.image_rounds import ImageRounds, LevelChoice
from nelbo.evidence.reading_levels import first_guess

# The rounds that explore: draws of level 1, and of the others. The first is soon there.
EXPLORING = ((4, 16), (8, 32), (8, 48))
# Rounds of a plan, network evaluations of one and of all at least.
_ROUNDS, _A_ROUND, _LEAST_CALLS = 24, 48, 64
# Of level 1 in a round: two copies of the image.
_LEAST_FIRST, _LEAST_LEVELS = 4, 8


@dataclass(frozen=True)
class Refined:
    """How far the bits of an image are known.

    Attributes:
        evidence: of the one image.
        calls: network evaluations so far.
        planned: how many there will be, as far as is known.
        final: whether this is the result.
        rounds: which of all rounds so far `evidence` is of.
    """

    evidence: Evidence
    calls: int
    planned: int
    final: bool
    rounds: range = range(1)

    @property
    def bits(self) -> float:
        """The image's bits/dim."""
        return float(self.evidence.bits_per_dim[0])

    @property
    def error(self) -> float:
        """Monte Carlo standard error of the image's bits/dim."""
        return monte_carlo_error(self.evidence)


@torch.no_grad()
def refine(
    model: Model,
    x_0: Float[Tensor, "one channels height width"],
    condition: Condition | None,
    error: float,
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
        seed: of all noise.
        most: network evaluations that the plan may take; the error then stays above what was asked.

    Raises:
        NelboError: an error that is not positive, or data that the model does not take.
    """
    check_error(error)
    model.check_data(x_0)
    if model.chain is None:
        noise = generator_for(seed, 6)
        yield Refined(model.evidence(x_0, condition, generator=noise), 1, 1, True)
        return
    choice = LevelChoice(first_guess(model.chain))
    rounds = ImageRounds(model, x_0, condition, choice, seed)

    def draw(first: int, levels: int) -> Bound:
        drawn = rounds.draw(first, levels)
        choice.learn(drawn.above)
        return Bound.merge(drawn.parts)

    yield from to_error(draw, error, most)


def monte_carlo_error(evidence: Evidence) -> float:
    """Monte Carlo standard error of the bits/dim of one image."""
    return math.sqrt(float(evidence.monte_carlo_variance[0])) / evidence.nats_per_bit_per_dim


def check_error(error: float) -> None:
    """Raise `NelboError` for an error that cannot be reached."""
    if not (error > 0 and math.isfinite(error)):
        raise NelboError(f"the error must be positive, in bits per dimension, got {error}")


def to_error(draw: Callable[[int, int], Bound], error: float, most: int) -> Iterator[Refined]:
    """Explore, plan, and draw what is reported.

    Args:
        draw: the bound of one image from a round, by the numbers of draws of level 1 and of others.
        error: the standard error to reach, bits per dimension.
        most: network evaluations that the plan may take.

    Raises:
        NelboError: a bound that is not finite.
    """
    explored: list[Bound] = []
    expected = sum(map(sum, EXPLORING)) + _LEAST_CALLS
    for draws in EXPLORING:
        explored.append(draw(*draws))
        seen = Bound.merge(explored)
        yield Refined(seen, int(seen.calls), expected, False, range(len(explored)))
    calls = int(seen.calls)
    reported: list[Bound] = []
    first, levels = _plan(seen, (MARGIN * error * seen.nats_per_bit_per_dim) ** 2, most)
    planned, allowed = calls + first + levels, (1 + ADDED_SHARE) * (first + levels)
    known = len(EXPLORING)
    exploration = range(known)
    while True:
        for draws in _rounds(first, levels):
            reported.append(draw(*draws))
            bound = Bound.merge(reported)
            taken = int(bound.calls)
            report = range(known, known + len(reported))
            # By their numbers, not by which looks better, so that either is unbiased.
            best, rounds = (seen, exploration) if taken < calls else (bound, report)
            yield Refined(best, calls + taken, max(planned, calls + taken), False, rounds)
        found = Refined(bound, calls + taken, calls + taken, True, report)
        excess = found.error / error
        # A plan that was wrong by much is added to once: see docs/decisions/0008.
        if not excess > 1 or taken >= allowed or calls + taken >= most:
            break
        share = min(excess**2 / MARGIN**2 - 1, allowed / taken - 1)
        first, levels = (math.ceil(share * count) for count in (first, levels))
        planned = calls + taken + first + levels
    yield found


def _plan(seen: Bound, variance: float, most: int) -> tuple[int, int]:
    """Draws of x_1 and of levels for a variance, nats²."""
    spread = DrawSpread.of([seen])
    calls = spread.calls(variance)
    if not math.isfinite(calls):
        raise NelboError("the bound of this image is not finite, so that its error is not known")
    if not calls:
        return 0, 0
    wanted = min(max(_LEAST_CALLS, math.ceil(calls)), most)
    return math.ceil(spread.share * wanted), math.ceil((1 - spread.share) * wanted)


def _rounds(first: int, levels: int) -> Iterator[tuple[int, int]]:
    """What is drawn in each of a few rounds, which together are the plan."""
    first, levels = max(_LEAST_FIRST, first), max(_LEAST_LEVELS, levels)
    count = min(_ROUNDS, max(1, (first + levels) // _A_ROUND))
    # Rather none in some rounds than fewer copies than have a spread.
    each, above = max(_LEAST_FIRST, -(-first // count)), max(_LEAST_LEVELS, -(-levels // count))
    for k in range(count):
        yield (each if k * each < first else 0), above + above % 2
