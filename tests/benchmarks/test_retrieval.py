"""Ranks against brute force, and the interval against scipy."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest

from benchmarks._retrieval import ranks, wilson, within


def test_ranks_are_places_in_the_sorted_scores(generator):
    pictures = torch.randn(40, 6, generator=generator)
    names = torch.randn(25, 6, generator=generator)
    right = torch.randint(25, (40,), generator=generator)
    scores = pictures @ names.T
    expected = [
        sorted(range(25), key=lambda j, row=row: -row[j]).index(r) + 1
        for row, r in zip(scores.tolist(), right.tolist(), strict=True)
    ]
    assert ranks(scores, right).tolist() == expected


def test_the_right_one_wins_no_tie():
    scores = torch.tensor([[1.0, 1.0, 1.0], [0.0, 2.0, 2.0], [0.0, 2.0, 1.0]])
    assert ranks(scores, torch.tensor([0, 1, 1])).tolist() == [3, 2, 1]


def test_scores_that_are_no_numbers_give_no_good_place():
    nan = float("nan")
    scores = torch.tensor([[nan, nan, nan], [nan, 1.0, 2.0], [1.0, nan, 0.0]])
    assert ranks(scores, torch.tensor([0, 0, 0])).tolist() == [3, 3, 2]


def test_within_counts_places():
    share = within(torch.tensor([1, 5, 6, 2, 1000]), 5)
    assert (share.mean, share.trials) == (0.6, 5)


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 60), (60, 60), (1, 60), (31, 60), (150, 200)]
)
def test_the_interval_is_that_of_scipy(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    share = wilson(successes, trials)
    assert share.mean == successes / trials
    assert share.low == pytest.approx(expected.low, abs=1e-9)
    assert share.high == pytest.approx(expected.high, abs=1e-9)
