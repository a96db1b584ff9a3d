"""What is measured of composed pictures, on pictures whose answer is known."""

from __future__ import annotations

import pytest
import torch
from _composed_things import Composed, halves, one_each, whole
from composition import copied, measurable, ratio, spread
from control_edges import f1

from nelbo.data import ImageData


def pictures(levels: list[int], **facts: list[str]) -> Composed:
    images = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    names = tuple(map(str, range(len(levels))))
    lines = tuple(dict(zip(facts, line, strict=True)) for line in zip(*facts.values(), strict=True))
    return Composed(ImageData("flat", images.contiguous(), 256, names), lines)


def test_copies_are_nearer_than_other_things():
    train = pictures([0, 10, 100], thing=["a", "a", "b"])
    asked = pictures([0, 4, 30, 255], thing=["a", "a", "a", "b"]).data.images
    # The nearest other thing of those at 0 and 10 is 90 or more away, that of 100 is 90 away.
    assert copied(asked, train).tolist() == [True, True, True, False]


def test_spread_is_the_mean_absolute_difference_of_pairs():
    some = pictures([0, 51, 255], thing=["a"] * 3).data.images
    assert spread(some) == pytest.approx((0.4 + 2.0 + 1.6) / 3)
    assert spread(some[:1].expand(4, -1, -1, -1)) == 0


def test_a_ratio_and_its_error(generator):
    of = (1 + torch.rand(400, generator=generator)).tolist()
    to = (2 + torch.rand(400, generator=generator)).tolist()
    found = ratio(of, to)
    assert found.mean == pytest.approx(sum(of) / sum(to))
    again = []
    for _ in range(500):  # the bootstrap
        index = torch.randint(400, (400,), generator=generator).tolist()
        again.append(sum(of[i] for i in index) / sum(to[i] for i in index))
    assert found.standard_error == pytest.approx(float(torch.tensor(again).std()), rel=0.15)


def test_halves_of_a_pair_fill_a_picture():
    images = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    images[..., 8:24, :16] = 10
    images[..., 8:24, 16:] = 200
    left, right = halves(images)
    assert left.shape == right.shape == images.shape
    assert (left == 10).all()
    assert (right == 200).all()


def test_one_of_each_and_only_whole_ones():
    some = pictures([1, 2, 3, 4], thing=["a", "a", "b", "c"], text=["a", "small a", "b", "c"])
    kept = one_each(some, ("thing",), 10, 0)
    assert sorted(one["thing"] for one in kept.facts) == ["a", "b", "c"]
    assert len(one_each(some, ("thing",), 2, 0).facts) == 2
    lines = [
        {"kind": "colour", "text": t} for t in ("red a", "small red a", "cook: dark skin tone")
    ]
    assert [whole(one) for one in lines] == [True, False, False]
    assert len(some.without(pictures([2, 4], thing=["a", "b"])).facts) == 2


def test_f1_forgives_one_pixel():
    given = torch.zeros(5, 32, 32, dtype=torch.bool)
    given[:, 10, 5:25] = True
    found = given.clone()
    found[1] = given[1].roll(1, 0)
    found[2] = given[2].roll(3, 0)
    found[3] = False
    found[4, 20, 5:25] = True  # as many lines again, elsewhere
    assert f1(found, given).tolist() == pytest.approx([1, 1, 0, 0, 2 / 3])


def test_what_a_folder_without_a_kind_can_measure():
    train, asked = ["name", "colour", "pair"], ["name", "style", "colour", "pair"]
    some, held_out = (
        pictures([*range(len(kinds))], kind=kinds, thing=kinds) for kinds in (train, asked)
    )
    assert measurable(some, held_out) == ["colour", "pair", "name", "variety"]
    assert measurable(pictures([0], kind=["pair"], thing=["a"]), held_out) == []
