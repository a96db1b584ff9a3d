"""Pixel levels and what stands for them on a screen and in a network, by their formula."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import Continuous, NelboError, Pixels


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_lie_evenly_between_minus_one_and_one(levels):
    data = Pixels(levels)
    expected = [2 * k / (levels - 1) - 1 for k in range(levels)]
    found = data.to_network(torch.arange(levels))
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert data.to_levels(found).tolist() == list(range(levels))
    # A little less than half of a step away, and beyond the ends.
    near = torch.tensor(expected) + 0.49 * 2 / (levels - 1)
    assert data.to_levels(near).tolist() == list(range(levels))
    assert data.to_levels(torch.tensor([-3.0, 3.0])).tolist() == [0, levels - 1]
    assert (data.shown_levels, data.is_density) == (levels, False)


def test_pictures_are_shown_at_the_nearest_level():
    pictures = torch.tensor([0, 8, 7, 127, 128, 247, 248, 255]).byte()
    expected = [round(k * 16 / 255) for k in pictures.tolist()]
    assert Pixels(17).nearest(pictures).tolist() == expected
    assert Pixels(256).nearest(torch.arange(256).byte()).tolist() == list(range(256))
    assert Continuous().nearest(torch.arange(256).byte()).tolist() == list(range(256))
    shown = Pixels(17).shown(torch.tensor([-2.0, -1.0, math.nan, 0.5, 1.0, math.inf, -math.inf]))
    assert shown.tolist() == [0, 0, 8, 12, 16, 16, 0]
    assert shown.dtype == torch.uint8
    assert Continuous().to_levels(torch.tensor([-1.0, 0.1, 1.0])).tolist() == [0, 140, 255]
    assert (Continuous().shown_levels, Continuous().is_density) == (256, True)


@pytest.mark.usefixtures("without_shape_checks")
def test_what_is_no_level_is_refused():
    data = Pixels(17)
    assert data.to_network(torch.tensor([], dtype=torch.int64)).shape == (0,)
    for levels, low, high in (([0, 17], 0, 17), ([-1, 16], -1, 16)):
        with pytest.raises(NelboError, match=rf"0\.\.16, found {low}\.\.{high}"):
            data.to_network(torch.tensor(levels))
    with pytest.raises(NelboError, match=r"integers in 0\.\.16.*times 16 to an integer"):
        data.to_network(torch.tensor([0.5]))
    with pytest.raises(NelboError, match="no pixel levels"):
        Continuous().to_network(torch.tensor([1]))
    with pytest.raises(NelboError, match="at least 2"):
        Pixels(1)


def test_values_off_the_levels_are_refused():
    data = Pixels(17)
    data.check(torch.tensor([-1.0, -0.875, 1.0]))
    data.check(torch.tensor([-1.0 + 0.009 / 8]))
    for off in (-1.0 + 0.011 / 8, 1.125, -1.125, -0.9375):
        with pytest.raises(NelboError, match="not on the model's 17 pixel levels"):
            data.check(torch.tensor([0.0, off]))
    for check in (data.check, Continuous().check):
        with pytest.raises(NelboError, match="2 values that are not finite"):
            check(torch.tensor([0.0, math.nan, math.inf]))
    Continuous().check(torch.tensor([0.123]))
    data.check_levels(17, "made")
    with pytest.raises(NelboError, match="made has 256 pixel levels, the model has 17"):
        data.check_levels(256, "made")
    with pytest.raises(NelboError, match="no pixel levels"):
        Continuous().check_levels(256, "made")
