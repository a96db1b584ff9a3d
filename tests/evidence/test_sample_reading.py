"""The samples that are shown beside their nearest training picture."""

from __future__ import annotations

import pytest
import torch

from nelbo.data import ImageData
from nelbo.evidence.sample_reading import read_samples


def pictures(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 200, (n, 1, 4, 4), generator=generator).byte()


def data(images: torch.Tensor) -> ImageData:
    return ImageData("made", images, 256, tuple(f"{i}.png" for i in range(len(images))))


def test_pairs_are_those_of_least_distance(generator):
    """Sample k is picture 2k, brighter by k, every second one mirrored; the last come first."""
    train = pictures(30, generator)
    copies = torch.stack([train[2 * k] + k for k in range(10)])
    copies[1::2] = copies[1::2].flip(-1)
    pairs = read_samples(copies.flip(0), data(train)).pairs
    assert pairs.names == tuple(f"{2 * k}.png" for k in range(8))
    assert pairs.distances == pytest.approx([k / 255 for k in range(8)])
    assert torch.equal(pairs.samples, copies[:8])
    expected = train[0:16:2].clone()
    expected[1::2] = expected[1::2].flip(-1)
    assert torch.equal(pairs.nearest, expected)
    assert pairs.levels == 256


def test_of_copies_the_first_are_shown(generator):
    train = pictures(20, generator)
    pairs = read_samples(train, data(train)).pairs
    assert pairs.names == tuple(f"{i}.png" for i in range(8))


def test_few_pictures_are_not_read(generator):
    train, samples = pictures(4, generator), pictures(2, generator)
    assert read_samples(samples, data(train[:3])) is None
    assert read_samples(samples[:1], data(train)) is None
    assert len(read_samples(samples, data(train)).pairs.names) == 2
