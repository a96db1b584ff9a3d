"""How many draws one image takes: by draws whose variances are known exactly."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import Bound, NelboError
from nelbo.evidence.image_rounds import ImageRounds, LevelChoice, at_once
from nelbo.evidence.one_image import _rounds, to_error
from nelbo.evidence.one_image_pair import Contender, refine_difference
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
