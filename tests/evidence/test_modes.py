"""Modes that samples reach: planted collapses of the mixture, whose modes are known."""

from __future__ import annotations

import pytest
import torch

from nelbo.data import load_data
from nelbo.evidence.modes import count_modes, k_means

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
