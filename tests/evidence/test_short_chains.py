"""What a fit promises of shorter chains: by hand, and against every choice of levels."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nelbo import LevelProfile
from nelbo.data import ImageData
from nelbo.diffusion.measurement import LevelCost
from nelbo.evidence import short_chains
from tests.diffusion.chain_costs import cost, rising_profile


def level_cost(t: int, score_matching: list[float], reconstruction: list[float]) -> LevelCost:
    none = torch.zeros(len(reconstruction))
    return LevelCost(t, none, torch.tensor(score_matching), 0.1, torch.tensor(reconstruction))


def test_an_image_costs_as_much_more_at_levels_between_as_at_the_measured_one_next_to_it():
    """Two images, both of them once and then again; levels 2 to 4 go by level 3, 5 and 6 by 6."""
    expected = torch.tensor([9.0, 9.0, 2.0, 3.0, 5.0, 11.0, 13.0], dtype=torch.float64)
    profile = replace(rising_profile(6, examples=2), score_matching=expected)
    costs = [
        level_cost(1, [99.0] * 4, [1.0, 2.0, 3.0, 6.0]),
        level_cost(3, [1.0, 3.0, 2.0, 2.0], [50.0] * 4),  # of mean 2
        level_cost(6, [4.0, 0.0, 8.0, 4.0], [50.0] * 4),  # of mean 4
    ]
    found = short_chains.costs_of_images(costs, profile)
    first = (1 + 3) / 2 + (2 + 3 + 5) * (1 + 2) / 2 / 2 + (11 + 13) * (4 + 8) / 2 / 4
    second = (2 + 6) / 2 + (2 + 3 + 5) * (3 + 2) / 2 / 2 + (11 + 13) * (0 + 4) / 2 / 4
    assert found.tolist() == pytest.approx([first, second])
    alone = short_chains.costs_of_images(costs[:1], profile)
    assert alone.tolist() == pytest.approx([2.0, 4.0])
    from_two = short_chains.costs_of_images([costs[0], costs[1]._replace(t=2)], profile)
    assert from_two.tolist() == pytest.approx([2 + 34 * 3 / 4, 4 + 34 * 5 / 4])


def test_images_that_cost_nothing_at_a_level_are_no_mistake():
    costs = [level_cost(1, [0.0], [3.0]), level_cost(2, [0.0], [0.0])]
    assert short_chains.costs_of_images(costs, rising_profile(2)).tolist() == [3.0]


def test_bounds_of_even_and_of_the_best_levels():
    """In a model whose autoencoder costs 4 nats, for images of 20 dimensions."""
    T, profile, images = 11, rising_profile(11), 20
    found = short_chains.expected_bounds(profile, images, 4.0)
    assert {name: list(row) for name, row in found.items()} == {
        "even": ["5", "10", "11"],
        "optimal": ["5", "10", "11"],
    }
    for K in (5, 10, T):
        chains = itertools.combinations(range(1, T + 1), K)
        best = min(cost(profile, chain) for chain in chains)
        even = tuple(int(t) + 1 for t in np.linspace(0, T - 1, K).round())
        for name, nats in (("even", cost(profile, even)), ("optimal", best)):
            bits = (nats + 4) / (images * math.log(2))
            assert found[name][str(K)] == pytest.approx(bits)
    # A chain of five levels has no shorter one of that many.
    assert list(short_chains.expected_bounds(rising_profile(5), 20, 0.0)["optimal"]) == ["5"]


@pytest.mark.parametrize(
    ("levels", "noisy"),
    [
        ([1, 2, 46, 50], 0),
        ([1, 46, 47, 50], 3),
        ([1, 45, 46, 50], 0),
        ([46, 47, 48, 50], 4),
        ([1, 2, 46, 47, 48, 50], 4),
        ([1, 50], 0),
    ],
)
def test_levels_of_which_most_are_in_the_noisiest_tenth_are_doubted(levels, noisy, monkeypatch):
    """Of fifty levels 46 to 50; half of the chosen ones are not most."""
    asked, K = [], len(levels)

    def chosen(profile: LevelProfile, K: int) -> list[int]:
        asked.append(K)
        return levels

    monkeypatch.setattr(short_chains, "optimal_levels", chosen)
    lengths = ("1", str(K), "50")
    bounds = {"even": dict.fromkeys(lengths, 2.0), "optimal": dict.fromkeys(lengths, 1.0)}
    found = short_chains.doubts(rising_profile(50), bounds)
    assert asked == [K]  # the longest but for the whole chain
    assert len(found) == (noisy > 0)
    if noisy:
        assert found[0].startswith(f"{noisy} of the {K} optimal levels")


def test_a_gain_that_cannot_be_detected_is_doubted(monkeypatch):
    monkeypatch.setattr(short_chains, "optimal_levels", lambda profile, K: [1, 2, 3, 4])
    for gain, doubted in ((0.0006, False), (0.0004, True)):
        bounds = {"even": {"2": 1.0 - 0.1, "4": 1.0}, "optimal": {"2": 1.0, "4": 1.0 - gain}}
        found = short_chains.doubts(rising_profile(50, examples=1234), bounds)
        assert bool(found) == doubted
    assert found[0].startswith("optimal levels gain at most 0.0004 bits/dim over even ones")
    assert found[0].endswith("from 1,234 images")
    # Where no chain is shorter there is nothing to doubt.
    whole = {"even": {"50": 1.0}, "optimal": {"50": 1.0}}
    assert short_chains.doubts(rising_profile(50), whole) == []


def test_states_and_what_the_autoencoder_costs():
    """z ~ N(x + 1, 1/4) and −log p(x|z) = Σ x z, less the entropy of a normal in closed form."""
    seen = []

    def encode(x):
        seen.append(len(x))
        return torch.distributions.Normal(x + 1, torch.full_like(x, 0.5))

    images = (torch.arange(70 * 2) % 256).byte().view(70, 1, 1, 2)
    model = SimpleNamespace(
        data=SimpleNamespace(to_network=lambda images: images.double() / 100),
        device=torch.device("cpu"),
        encode=encode,
        decoder_log_prob=lambda x, z: -(x * z).flatten(1).sum(1),
    )
    data = ImageData("made", images, 256, tuple(map(str, range(70))))
    z, costs = short_chains.states_of(model, data, torch.Generator().manual_seed(0))
    x = images.double() / 100
    entropy = 2 * 0.5 * math.log(2 * math.pi * math.e * 0.25)
    torch.testing.assert_close(costs, (x * z).flatten(1).sum(1) - entropy)
    assert seen == [64, 6]
    noise = ((z - x - 1) / 0.5).flatten()
    assert noise.mean().abs() < 4 / math.sqrt(140)
    assert noise.std().item() == pytest.approx(1, abs=0.25)
