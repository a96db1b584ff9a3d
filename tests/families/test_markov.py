"""The Markov model against counts made by hand, and sums over all images."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from nelbo import Continuous, NelboError, Pixels
from nelbo.data import load_data
from nelbo.families import MarkovModel
from nelbo.families.examples import prepare
from nelbo.families.markov import count, smooth
from nelbo.families.raster import to_raster
from tests.families.brute_force import total_probability
from tests.families.contract import check_contract


def pixels(n: int, *shape: int, levels: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return Pixels(levels).to_network(torch.randint(0, levels, (n, *shape), generator=g))


@pytest.mark.parametrize(
    ("order", "shape", "levels"), [(0, (1, 2, 2), 3), (2, (1, 2, 3), 2), (3, (3, 1, 2), 2)]
)
def test_probabilities_of_all_images_sum_to_one(order, shape, levels):
    x = pixels(20, *shape, levels=levels)
    model = MarkovModel(order).fit(x, data=Pixels(levels))
    assert total_probability(model, levels) == pytest.approx(1, abs=1e-12)


def test_is_interpolated_from_counts():
    """P of one image by a dictionary of counts and the model's own α."""
    k = torch.randint(0, 3, (30, 1, 2, 2), generator=torch.Generator().manual_seed(1))
    space = Pixels(3)
    model = MarkovModel(1).fit(space.to_network(k), data=space)
    rows = [image.flatten().tolist() for image in k]
    singles = Counter(v for row in rows for v in row)
    pairs = Counter((a, b) for row in rows for a, b in zip([None, *row], row, strict=False))
    starts = Counter(a for row in rows for a in [None, *row[:-1]])
    first, second = model.smoothing.tolist()

    def p(value, before):
        alone = (singles[value] + first / 3) / (singles.total() + first)
        return (pairs[before, value] + second * alone) / (starts[before] + second)

    expected = -sum(math.log(p(b, a)) for a, b in zip([None, *rows[0]], rows[0], strict=False))
    found = model.evidence(space.to_network(k[:1])).total.item()
    assert found == pytest.approx(expected, abs=1e-10)


def test_smoothing_is_the_best_on_held_out_images():
    """No other α of the last order is better on images that were not counted."""
    digits = load_data("digits", "train")
    model = MarkovModel(2).fit(digits)
    parts = prepare(digits, None, 0)
    train, held_out = (to_raster(Pixels(17).to_levels(x)) for x in (parts.train, parts.held_out))
    shorter = torch.full((1, 1, 17), 1 / 17, dtype=torch.float64)
    for order in (0, 1):
        counts = count(train, order, 17, 1)
        shorter = smooth(counts, shorter, model.smoothing[order].item())
    counts, kept = count(train, 2, 17, 1), count(held_out, 2, 17, 1)

    def cost(alpha):
        return -(kept * smooth(counts, shorter, alpha).log()).sum().item()

    best = model.smoothing[2].item()
    assert cost(best) < min(cost(best * factor) for factor in (0.5, 0.9, 1.1, 2))


def test_a_higher_order_costs_less_on_test_digits():
    train = load_data("digits", "train")
    x = Pixels(17).to_network(load_data("digits", "test").images)
    bits = [MarkovModel(k).fit(train).evidence(x).bits_per_dim.mean().item() for k in (0, 1, 2)]
    assert bits[0] > bits[1] + 0.2 > bits[2] + 0.2
    assert bits[2] < 2.9


def test_steps_are_the_orders_and_time_ends_them():
    x = pixels(40, 1, 3, 3, levels=4)
    model = MarkovModel(3)
    steps = list(model.fit_steps(x, data=Pixels(4)))
    assert [step.number for step in steps] == [1, 2, 3, 4]
    assert steps[0].nats >= steps[-1].nats
    assert len(list(model.fit_steps(x, data=Pixels(4), time_budget=1e-9))) == 1
    assert model.evidence(x).total.isfinite().all()


def test_samples_follow_the_table(generator):
    """Two values: the frequencies of all four images are their probabilities."""
    k = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]]).repeat(20, 1).view(-1, 1, 1, 2)
    space = Pixels(2)
    model = MarkovModel(1).fit(space.to_network(k), data=space)
    drawn = space.to_levels(model.sample(20_000, generator=generator)).flatten(1)
    images = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    p = (-model.evidence(space.to_network(images.view(-1, 1, 1, 2))).total).exp()
    share = (drawn[:, None] == images).all(2).double().mean(0)
    assert ((share - p).abs() < 4.5 * (p * (1 - p) / 20_000).sqrt() + 1e-9).all()


def test_contract(tmp_path):
    x = pixels(10, 3, 2, 2, levels=4)
    check_contract(MarkovModel(2).fit(x, data=Pixels(4)), x, tmp_path)


def test_one_image_is_enough():
    x = pixels(1, 1, 2, 2, levels=4)
    assert MarkovModel(1).fit(x, data=Pixels(4)).evidence(x).total.isfinite().all()


def test_refusals():
    with pytest.raises(NelboError, match="order must be at least 0"):
        MarkovModel(-1)
    with pytest.raises(NelboError, match="Pixels"):
        MarkovModel(1).fit(torch.zeros(2, 1, 2, 2), data=Continuous())
    with pytest.raises(NelboError, match="an order of at most 1"):
        MarkovModel(2).fit(pixels(2, 3, 2, 2, levels=256), data=Pixels(256))
