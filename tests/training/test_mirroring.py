"""Which pictures are mirrored: those that look like their mirror images."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo.data import ImageData, load_data
from nelbo.training.kinds.pixel.mirroring import asymmetry, mirrors_suit


def images(pixels: torch.Tensor) -> ImageData:
    return ImageData("made", pixels.byte(), 256, tuple(map(str, range(len(pixels)))))


def test_symmetric_sets_are_mirrored_and_digits_are_not():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (400, 3, 8, 8), generator=generator)
    both = torch.cat([noise[:200], noise[:200].flip(-1)])
    assert asymmetry(images(both)) == pytest.approx(0.0, abs=1e-6)
    assert mirrors_suit(images(both))
    assert mirrors_suit(images(noise[:, :1]))
    assert asymmetry(load_data("digits")) > 0.2
    assert not mirrors_suit(load_data("digits"))


def test_the_distance_of_means_and_spreads_by_hand():
    """Two pixels beside one another, alone: the distance of two normals in closed form."""
    generator = torch.Generator().manual_seed(0)
    left = 40 + 10 * torch.randn(20_000, generator=generator)
    right = 120 + 30 * torch.randn(20_000, generator=generator)
    pixels = torch.stack([left, right], 1).view(-1, 1, 1, 2).round().clamp(0, 255)
    a, b = pixels[:, 0, 0, 0].double(), pixels[:, 0, 0, 1].double()
    # The covariances are diagonal but for chance, and mirrored they change places.
    means = 2 * (a.mean() - b.mean()) ** 2
    spreads = 2 * (a.std() - b.std()) ** 2
    expected = (means + spreads) / (a.var() + b.var())
    # At most five thousand of them are looked at.
    assert asymmetry(images(pixels)) == pytest.approx(expected.item(), rel=0.05)


def test_one_picture_or_nothing_but_one_colour_is_no_reason_not_to():
    flat = torch.full((5, 1, 4, 4), 7)
    assert asymmetry(images(flat)) == 0.0
    assert asymmetry(images(flat[:1])) == 0.0
    assert mirrors_suit(images(flat))
    assert math.isfinite(
        asymmetry(images(torch.eye(4).view(1, 1, 4, 4).expand(2, -1, -1, -1) * 255))
    )
