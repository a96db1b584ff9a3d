"""The mixture in the plane: its splits, its modes, and its probability by brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from nelbo.data import load_data
from nelbo.data.duplicates import without_duplicates
from nelbo.data.mixture import CENTRES, STD, mixture_bits


def test_splits_are_disjoint_and_keep_equal_points():
    parts = {split: load_data("mixture", split) for split in ("train", "validation", "test")}
    assert [len(part) for part in parts.values()] == [3610, 390, 1000]
    assert len(load_data("mixture", "all")) == 5000
    names = [set(part.names) for part in parts.values()]
    assert len(set.union(*names)) == 5000
    assert len(without_duplicates(parts["test"], parts["train"])) == 1000


def test_points_lie_at_their_modes():
    data = load_data("mixture", "all")
    x = data.images.view(-1, 2).double() * (2 / 255) - 1
    for mode, name in enumerate(data.label_names):
        centre = torch.tensor([float(part) for part in name.split(",")])
        points = x[data.labels == mode]
        assert 150 < len(points) < 260
        assert (points.mean(0) - centre).abs().max() < 5 * STD / 150**0.5
        assert points.std(0).max() < 1.3 * STD


def test_probabilities_are_those_of_the_bins_and_sum_to_one():
    every = torch.cartesian_prod(torch.arange(256), torch.arange(256)).view(-1, 1, 1, 2)
    p = torch.exp2(-2 * mixture_bits(every))
    assert p.sum().item() == pytest.approx(1.0, abs=1e-9)
    # One bin by integration of the density.
    k = torch.tensor([26, 128])
    edges = [(torch.linspace(float(c - 0.5), float(c + 0.5), 2001) * 2 / 255 - 1) for c in k]
    total = 1.0
    for edge in edges:
        density = sum(Normal(c, STD).log_prob(edge.double()).exp() for c in CENTRES) / len(CENTRES)
        total *= float(torch.trapezoid(density, edge.double()))
    bits = mixture_bits(k.view(1, 1, 1, 2)).item()
    assert bits == pytest.approx(-math.log2(total) / 2, abs=1e-4)


def test_the_mean_cost_of_test_points_is_the_entropy():
    every = torch.cartesian_prod(torch.arange(256), torch.arange(256)).view(-1, 1, 1, 2)
    bits = mixture_bits(every)
    entropy = (torch.exp2(-2 * bits) * bits).nansum().item()
    found = mixture_bits(load_data("mixture", "test").images)
    assert abs(found.mean().item() - entropy) < 4 * found.std().item() / 1000**0.5
