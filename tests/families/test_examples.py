"""Which images are fitted, which are held out, and which are never seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nelbo import Continuous, NelboError, Pixels
from nelbo.data import load_data
from nelbo.data.stream import ImageStream
from nelbo.families import examples
from nelbo.families.examples import prepare


def keys(x: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(image.flatten().tolist()) for image in x}


def test_named_splits_are_kept_and_test_images_never_seen():
    every = load_data("digits", "all")
    found = prepare(every, None, seed=0)
    for part, x in (("train", found.train), ("validation", found.held_out)):
        expected = Pixels(17).to_network(load_data("digits", part).images)
        assert torch.equal(x, expected)
    assert found.space == Pixels(17)
    assert torch.equal(found.all, found.train)  # nothing is fitted to a validation split


def test_one_split_is_divided_by_the_seed():
    train = load_data("digits", "train")
    first, again, other = (prepare(train, None, seed) for seed in (1, 1, 2))
    assert torch.equal(first.held_out, again.held_out)
    assert not torch.equal(first.held_out, other.held_out)
    assert len(first.held_out) == round(0.1 * len(train))
    assert not keys(first.train) & keys(first.held_out)


@pytest.mark.parametrize(("count", "train", "held_out"), [(1, 1, 1), (2, 1, 1), (3, 2, 1)])
def test_few_images(count, train, held_out):
    x = torch.arange(count).float().view(-1, 1, 1, 1)
    found = prepare(x, None, 0)
    assert (len(found.train), len(found.held_out)) == (train, held_out)
    assert torch.equal(found.all.sort(0).values, x)
    assert found.space == Continuous()


def test_too_much_data(monkeypatch):
    monkeypatch.setattr(examples, "LARGEST_DATA", 1000)
    with pytest.raises(NelboError, match="some 15 of them"):
        prepare(load_data("digits", "train"), None, 0)


def test_a_stream_is_refused():
    streamed = replace(load_data("digits", "train"), stream=object.__new__(ImageStream))
    with pytest.raises(NelboError, match="is streamed"):
        prepare(streamed, None, 0)


def test_what_is_no_images(without_shape_checks):
    with pytest.raises(NelboError, match="ImageData or a tensor"):
        prepare([[0.0]], None, 0)
