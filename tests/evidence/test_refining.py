"""How many draws one image takes: by draws whose variances are known exactly."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import Bound, NelboError, NoiseSchedule, Pixels
from nelbo.chain.estimators import UNIFORM_SHARE
from nelbo.chain.evidence import Costs
from nelbo.evidence.image_rounds import ImageRounds, LevelChoice, at_once
from nelbo.evidence.one_image import _rounds, refine, to_error
from nelbo.evidence.one_image_pair import Contender, refine_difference
from nelbo.evidence.reading_levels import first_guess
from tests.costs import CostModel

# Variances of one draw of level 1, and of one of the other levels.
A, C = 3.0, 12.0
# Those of three rounds that explore, and one of those.
EXPLORED, ONE_ROUND = (4 + 16) + (8 + 32) + (8 + 48), 84


def drawn(first: int, levels: int, factor: float = 1.0) -> Bound:
    """Costs 5 and 7 with the variances A/R and C/K, times a factor."""
    # Two neighbours at a distance of √(2C) are what the variance is read off.
    half = math.sqrt(factor * C / 2)
    columns = torch.full((1, levels), 7.0, dtype=torch.float64)
    columns[:, ::2] += half
    columns[:, 1::2] -= half
    variance = factor * A / first if first else math.nan
    return Bound(
        reconstruction=torch.tensor([-5.0 if first else math.nan], dtype=torch.float64),
        prior_matching=torch.zeros(1, dtype=torch.float64),
        score_matching=columns,
        levels=torch.full((1, levels), 2),
        weights=torch.full((1, levels), 1 / levels, dtype=torch.float64),
        dims=1,
        reconstruction_variance=torch.tensor([variance], dtype=torch.float64),
        reconstruction_calls=torch.tensor([first]),
    )


def refined(explored: float, reported: float, variance: float, most: int = 20_000):
    """The readings, and what was drawn, to 1/0.92 of a standard error of √variance nats."""
    asked: list[tuple[int, int]] = []

    def draw(first: int, levels: int) -> Bound:
        asked.append((first, levels))
        return drawn(first, levels, explored if len(asked) <= 3 else reported)

    error = math.sqrt(variance) / 0.92 / math.log(2)
    return list(to_error(draw, error, most)), asked, error


def test_the_fewest_draws_for_the_error_are_planned():
    """(√A + √C)² / V calls, of which √A : √C are of level 1 : the others."""
    readings, asked, error = refined(1.0, 1.0, 0.01349)
    plan = math.ceil((math.sqrt(A) + math.sqrt(C)) ** 2 / 0.01349)
    first, levels = math.ceil(plan / 3), math.ceil(plan * 2 / 3)
    assert asked[:3] == [(4, 16), (8, 32), (8, 48)]
    # 24 rounds at most, of as many draws each, and an even number of levels.
    assert asked[3:] == [(math.ceil(first / 24), 2 * math.ceil(levels / 48))] * 24
    assert sum(asked[3]) == ONE_ROUND
    assert [reading.calls for reading in readings[:3]] == [20, 60, EXPLORED]
    assert {reading.planned for reading in readings[:3]} == {EXPLORED + 64}
    planned = EXPLORED + first + levels
    for k, reading in enumerate(readings[3:-1], 1):
        calls = EXPLORED + k * ONE_ROUND
        assert (reading.calls, reading.planned) == (calls, max(planned, calls))
        # The exploration, until there are as many draws that it has not planned.
        shown = EXPLORED if k == 1 else k * ONE_ROUND
        assert int(reading.evidence.calls) == shown
        assert reading.rounds == (range(3) if k == 1 else range(3, 3 + k))
    assert [reading.final for reading in readings] == [False] * 27 + [True]
    last = readings[-1]
    assert last.calls == last.planned == EXPLORED + 24 * ONE_ROUND
    assert last.rounds == range(3, 27)
    assert last.bits == pytest.approx(12 / math.log(2))
    expected = math.sqrt(A / (24 * 28) + C / (24 * 56)) / math.log(2)
    assert last.error == pytest.approx(expected)
    assert 0.9 * error < last.error < error


def test_what_explores_is_of_all_rounds_so_far():
    readings, _, _ = refined(1.0, 1.0, 0.01349)
    assert [reading.rounds for reading in readings[:3]] == [range(1), range(2), range(3)]


def test_draws_that_are_noisier_than_was_explored_are_added_to_once():
    """By a third for a variance that is higher by a third, and by a half at most."""
    _, asked, _ = refined(1.0, 1.0, 0.01349)
    plan = sum(map(sum, asked[3:]))
    readings, asked, error = refined(1.0, 4 / 3, 0.01349)
    taken = sum(map(sum, asked[3:]))
    assert taken == pytest.approx(4 / 3 * plan, rel=0.03)
    assert readings[-1].error <= error
    assert readings[-1].calls == EXPLORED + taken
    readings, asked, error = refined(1.0, 4.0, 0.01349)
    taken = sum(map(sum, asked[3:]))
    assert taken == pytest.approx(1.5 * plan, rel=0.03)
    assert readings[-1].error == pytest.approx(math.sqrt(4 * 27 / taken) / math.log(2), rel=0.01)
    assert readings[-1].error > error
    assert readings[-1].final


def test_a_plan_takes_no_more_than_it_may():
    readings, asked, error = refined(1.0, 1.0, 0.01349, most=600)
    assert sum(map(sum, asked[3:])) == pytest.approx(600, rel=0.05)
    assert readings[-1].final
    assert readings[-1].error > error


def test_draws_without_a_spread_take_one_small_round():
    readings, asked, _ = refined(0.0, 0.0, 1.0)
    assert asked[3:] == [(4, 8)]
    assert readings[-1].error == 0
    assert readings[-1].bits == pytest.approx(12 / math.log(2))
    # The least that is planned where there is one.
    _, asked, _ = refined(1.0, 1.0, 1e3)
    assert asked[3:] == [(math.ceil(64 / 3), 2 * math.ceil(64 / 3))]
    with pytest.raises(NelboError, match="the bound of this image is not finite"):
        refined(math.inf, 1.0, 1.0)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ((100, 380), [(10, 38)] * 10),
        ((48, 105), [(16, 36)] * 3),  # an even number of levels
        ((5, 2000), [(4, 84)] * 2 + [(0, 84)] * 22),  # rather none than fewer than four
        ((8, 2000), [(4, 84)] * 2 + [(0, 84)] * 22),
        ((2000, 5), [(84, 8)] * 24),
        ((0, 0), [(4, 8)]),
        ((20, 27), [(20, 28)]),
    ],
)
def test_rounds_make_the_plan(plan, expected):
    assert list(_rounds(*plan)) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [(2**17, [4, 1]), (2**18, [2, 2, 1]), (2**19, [1] * 5), (2**20, [1] * 5), (1, [5])],
)
def test_copies_of_large_images_are_evaluated_a_few_at_a_time(values, expected):
    assert at_once(5, torch.empty(1, 1, 1, values)) == expected
    assert at_once(0, torch.empty(1, 1, 1, values)) == []


def test_a_round_has_two_draws_of_level_1_on_each_copy():
    model = CostModel("normal")

    def first_two(seed: int) -> list[Bound]:
        choice = LevelChoice(torch.full((10,), 0.1))
        rounds = ImageRounds(model, torch.zeros(1, 1, 1, 1), None, choice, seed)
        return [Bound.merge(rounds.draw(7, 16).parts) for _ in range(2)]

    (one, two), again = first_two(3), first_two(3)
    for bound in (one, two):
        assert (int(bound.reconstruction_calls), int(bound.level_calls)) == (8, 16)
    assert float(one.elbo) == float(again[0].elbo)
    assert len({float(bound.elbo) for bound in (one, two, *first_two(4))}) == 4
    rounds = ImageRounds(model, torch.zeros(1, 1, 1, 1), None, LevelChoice(torch.ones(10) / 10), 0)
    assert rounds.draw(0, 16).copies is None
    copies = rounds.draw(8, 16).copies
    assert copies is not None
    assert copies.reconstruction_calls.tolist() == [2] * 4


def test_the_two_sides_of_a_difference_are_of_its_draws():
    """At every reading, those that explore included."""
    x_0 = torch.zeros(1, 1, 1, 1)
    pair = Contender(CostModel("exponential"), x_0), Contender(CostModel("squared"), x_0)
    for (first, second), difference in refine_difference(pair, 0.5):
        bits = float(first.bits_per_dim[0]) - float(second.bits_per_dim[0])
        assert difference.bits == pytest.approx(bits, abs=1e-6)
        assert int(first.calls) == int(second.calls) == int(difference.evidence.calls)


@pytest.mark.parametrize("error", [0.0, -0.5, math.nan, math.inf])
def test_an_error_that_cannot_be_reached_is_refused(error):
    with pytest.raises(NelboError, match="the error must be positive"):
        next(refine(CostModel("normal"), torch.zeros(1, 1, 1, 1), None, error))


class Recorded(CostModel):
    """Costs on a chain of one's choice, which keep the levels they were asked for."""

    def __init__(self, T: int, beta: float) -> None:
        super().__init__("normal", T)
        self.schedule = NoiseSchedule.linear(T, 0.05, beta)
        self.seen: list[Bound] = []

    def elbo(self, x_0, condition=None, *, levels=None, generator=None):
        bound = super().elbo(x_0, condition, levels=levels, generator=generator)
        if bound.levels.shape[1]:
            self.seen.append(bound)
        return bound


@pytest.mark.parametrize("others", [11, 7])
def test_chains_of_one_length_are_drawn_at_the_same_levels(others):
    """First by the mean of what is guessed of each; of chains that differ each by its own."""
    models = Recorded(11, 0.4), Recorded(others, 0.9)
    x_0 = torch.zeros(1, 1, 1, 1)
    for _ in refine_difference((Contender(models[0], x_0), Contender(models[1], x_0)), 1.0):
        pass
    guesses = [first_guess(model.chain) for model in models]
    assert others != 11 or (guesses[0] - guesses[1]).abs().max() > 0.01
    if others == 11:
        guesses = [(guesses[0] + guesses[1]) / 2] * 2
        for one, two in zip(models[0].seen, models[1].seen, strict=True):
            assert torch.equal(one.levels, two.levels)
            assert torch.equal(one.weights, two.weights)
    for model, guess in zip(models, guesses, strict=True):
        first = model.seen[0]
        expected = 1 / (first.levels.shape[1] * guess[first.levels - 2])
        torch.testing.assert_close(first.weights, expected)


class InOneCall:
    """A model without a chain, whose costs have a mean of 5 nats and a known variance."""

    chain, data, shape, device = None, Pixels(9), (1, 1, 1), torch.device("cpu")

    def __init__(self, variance: float, kind: str = "bound") -> None:
        self.variance, self.kind, self.copies = variance, kind, []

    def evidence(self, x_0, condition=None, *, levels=None, generator=None):
        n = len(x_0)
        self.copies.append(n)
        noise = torch.randn(n, generator=generator, dtype=torch.float64)
        terms = {} if self.kind == "none" else {"cost": 5 + math.sqrt(self.variance) * noise}
        calls = torch.ones(n, dtype=torch.int64)
        return Costs(self.kind, terms, 1, calls, torch.full((n,), self.variance).double())


def last_of(first, second, error: float = 0.5, seed: int = 0):
    x_0 = torch.zeros(1, 1, 1, 1)
    *_, (_, last) = refine_difference(
        (Contender(first, x_0), Contender(second, x_0)), error, seed=seed
    )
    return last


@pytest.mark.usefixtures("without_shape_checks")
def test_a_model_without_a_chain_is_drawn_as_often_as_the_plan_asks():
    """Two draws of level 1 of the other are a copy of it; where it has no noise, it is one call."""
    noisy, certain = InOneCall(4.0), InOneCall(0.0)
    last = last_of(noisy, certain)
    assert certain.copies == [1]
    # One call to see that it varies, then half of the 4, 8 and 8 that explore.
    assert noisy.copies[:4] == [1, 2, 4, 4]
    drawn = 2 * sum(noisy.copies[4:])
    assert int(last.evidence.reconstruction_calls) == drawn
    # A variance of 4 of each copy, of which half as many are drawn.
    assert last.error == pytest.approx(math.sqrt(4 / (drawn / 2)) / math.log(2), rel=0.5)
    assert abs(last.bits) < 4 * last.error
    assert last_of(certain, certain).error == last_of(certain, certain).bits == 0


@pytest.mark.usefixtures("without_shape_checks")
def test_differences_to_a_chain_have_the_right_sign_and_size():
    """Of 5 nats and of a chain's 2 · 3 in the mean, either way round."""
    found = [last_of(InOneCall(1.0), CostModel("normal"), seed=seed) for seed in range(4)]
    back = [last_of(CostModel("normal"), InOneCall(1.0), seed=seed) for seed in range(4)]
    for one in found:
        assert one.final
        assert abs(one.bits + 1 / math.log(2)) < 4 * one.error
    for one, other in zip(found, back, strict=True):
        assert other.bits == pytest.approx(-one.bits)
        assert other.error == pytest.approx(one.error)


@pytest.mark.usefixtures("without_shape_checks")
def test_what_has_no_bits_to_compare():
    x_0 = torch.zeros(1, 1, 1, 1)
    with pytest.raises(NelboError, match="no probability needs no bits"):
        last_of(InOneCall(1.0, "none"), CostModel("normal"))
    other = InOneCall(1.0)
    other.data = Pixels(5)
    pair = Contender(CostModel("normal"), x_0), Contender(other, x_0)
    with pytest.raises(NelboError, match="1×1×1 with 9 levels and 1×1×1 with 5 levels"):
        next(refine_difference(pair, 0.5))
    wide = Contender(CostModel("normal"), torch.zeros(1, 1, 1, 2))
    with pytest.raises(NelboError, match="1×1×1 with 9 levels and 1×1×2 with 9 levels"):
        next(refine_difference((pair[0], wide), 0.5))


def test_a_group_of_four_draws_corrects_the_guess():
    """By hand: costs of 10 and 40 times the guess at two levels, and between in logarithm."""
    guess = torch.full((10,), 0.1, dtype=torch.float64)
    choice = LevelChoice(guess)

    def learned(levels: list[int], costs: list[float]) -> list[float]:
        one, row = torch.zeros(1), torch.tensor([costs])
        choice.learn(Bound(one, one, row, torch.tensor([levels]), torch.ones_like(row), dims=1))
        return choice.proposal.tolist()

    assert learned([2, 2, 2], [1.0, 1.0, 1.0]) == guess.tolist()  # too few
    # One group has one factor for all.
    assert learned([2], [1.0]) == pytest.approx(guess.tolist())
    found = learned([9, 9, 9, 9], [4.0, 4.0, 4.0, 4.0])
    places = [0.1 * k for k in range(1, 11)]
    logs = [math.log(10) + math.log(4) * (min(p, 0.8) - 0.1) / 0.7 for p in places]
    factors = [math.exp(each) for each in logs]
    share = UNIFORM_SHARE
    expected = [share / 10 + (1 - share) * each / sum(factors) for each in factors]
    assert found == pytest.approx(expected)
