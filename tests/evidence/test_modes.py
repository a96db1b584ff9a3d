"""Modes that samples reach: planted collapses of the mixture, whose modes are known."""

from __future__ import annotations

import pytest
import torch

from nelbo.data import load_data
from nelbo.evidence.modes import _held, count_modes, k_means

TRAIN = load_data("mixture", "train").take(slice(1000))
TEST = load_data("mixture", "test")


def test_the_clusters_of_the_mixture_are_its_modes(generator):
    points = TRAIN.images.view(-1, 2).double()
    centres = k_means(points, 25, generator)
    nearest = torch.cdist(points, centres).argmin(1)
    pairs = set(zip(nearest.tolist(), TRAIN.labels.tolist(), strict=True))
    assert len(pairs) == 25  # each cluster is one mode


@pytest.mark.parametrize("kept", [25, 10, 1])
def test_samples_reach_the_modes_they_hold(kept):
    samples = TEST.images[TEST.labels < kept][:256]
    found = count_modes(samples, TRAIN.images, 256)
    assert (found.count, found.reached) == (25, kept)
    if kept == 25:
        assert found.real_reached == 25
    assert found.real_off < 4  # 5% of 25 by chance


def test_a_share_that_differs_is_off_and_noise_reaches_nothing():
    one = TEST.images[TEST.labels == 3]
    tilted = torch.cat([TEST.images[:150], one.repeat(10, 1, 1, 1)])
    found = count_modes(tilted, TRAIN.images, 256)
    assert found.reached == 25
    assert found.off >= 10
    # Between the modes there is no picture to be like.
    between = torch.tensor([51, 51]).byte().view(1, 1, 1, 2).expand(50, 1, 1, 2)
    assert count_modes(between, TRAIN.images, 256).reached == 0


def test_few_real_pictures():
    found = count_modes(TEST.images[:2], TRAIN.images[:4], 256)
    assert found.count == 1


def at(*counts: int) -> torch.Tensor:
    """As many points as that around 0, 100, 200, ..., a hundredth apart."""
    parts = [100 * k + torch.arange(n) / 100 for k, n in enumerate(counts)]
    return torch.cat(parts).double()[:, None]


CENTRES = torch.tensor([[0.0], [100.0], [200.0]], dtype=torch.float64)


@pytest.mark.parametrize("held", [(n, 30 - n // 2, 30 - (n + 1) // 2) for n in range(0, 60, 3)])
def test_shares_that_differ_by_a_test_of_two_proportions(held):
    """Against statsmodels, of 60 samples and 130 training pictures."""
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    expected = (20, 50, 60)
    _, off = _held(at(*held), at(*expected), CENTRES)
    probabilities = [
        proportion.proportions_ztest([a, b], [sum(held), sum(expected)])[1]
        for a, b in zip(held, expected, strict=True)
    ]
    assert off == sum(p < 0.05 for p in probabilities)


def test_a_sample_within_reach_of_the_third_neighbour_is_like_a_picture():
    """Pictures at 0, 1, 2, 4, 8: the ball around the first reaches to 4, that of the last 7."""
    pictures = torch.tensor([[0.0], [1.0], [2.0], [4.0], [8.0]], dtype=torch.float64)
    for place, like in ((-3.9, True), (-4.1, False), (14.9, True), (15.1, False)):
        reached, _ = _held(torch.tensor([[place]]).double(), pictures, CENTRES)
        assert reached == like
    # Of two pictures there is one neighbour.
    for place, like in ((-0.9, True), (-1.1, False)):
        reached, _ = _held(torch.tensor([[place]]).double(), pictures[:2], CENTRES)
        assert reached == like


def test_pictures_that_are_all_alike_have_one_centre_each(generator):
    centres = k_means(torch.full((7, 2), 3.0), 3, generator)
    assert torch.equal(centres, torch.full((3, 2), 3.0))


def test_the_best_clusters_have_the_least_sum_of_squares(generator):
    """Against every division of nine points on a line into three, which are intervals."""
    points = torch.tensor([0.0, 1.0, 1.5, 4.0, 5.0, 5.2, 9.0, 9.9, 12.0], dtype=torch.float64)

    def squares(part: torch.Tensor) -> float:
        return float((part - part.mean()).square().sum())

    least = min(
        squares(points[:a]) + squares(points[a:b]) + squares(points[b:])
        for a in range(1, 8)
        for b in range(a + 1, 9)
    )
    centres = k_means(points[:, None], 3, generator)
    found = float((points[:, None] - centres.T).square().amin(1).sum())
    assert found == pytest.approx(least)
