"""Level samplers: unbiased, as likely as their weights say, and adapting as they should."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import NelboError
from nelbo.diffusion.level_samplers import (
    LEVEL_SAMPLERS,
    ImportanceSampler,
    LevelSampler,
    level_probabilities,
    make_level_sampler,
    shifted_probabilities,
)

T = 20


def losses_of(levels: torch.Tensor) -> torch.Tensor:
    """Losses that differ between levels as those of a bound do."""
    return 10.0 * levels.double() ** -2


def trained(sampler: LevelSampler, generator: torch.Generator) -> LevelSampler:
    for _ in range(100):
        t, _ = sampler.draw(16, generator)
        sampler.update(t, losses_of(t))
    return sampler


@pytest.mark.parametrize("first_share", [None, 0.3])
@pytest.mark.parametrize("name", LEVEL_SAMPLERS)
def test_estimates_are_unbiased(name, first_share, generator):
    sampler = trained(make_level_sampler(name, level_probabilities(T, first_share)), generator)
    exact = losses_of(torch.arange(1, T + 1)).sum().item()
    draws = [sampler.draw(7, generator) for _ in range(1000)]
    estimates = torch.stack([(w * losses_of(t)).mean() for t, w in draws])
    error = estimates.std().item() / math.sqrt(len(estimates))
    assert abs(estimates.mean().item() - exact) < 3.5 * error + 1e-6


@pytest.mark.parametrize("name", LEVEL_SAMPLERS)
@pytest.mark.parametrize("share", [0.1, None])
def test_levels_have_the_probability_that_their_weight_says(name, share, generator):
    sampler = trained(make_level_sampler(name, level_probabilities(T, share)), generator)
    counts, weights = torch.zeros(T + 1), torch.zeros(T + 1)
    for _ in range(1000):
        t, weight = sampler.draw(20, generator)
        counts += torch.bincount(t, minlength=T + 1)
        weights[t] = weight
    frequency = counts[1:] / counts.sum()
    spread = (frequency * (1 - frequency) / counts.sum()).sqrt()
    assert ((frequency - 1 / weights[1:]).abs() < 4 * spread + 1e-4).all()


def test_a_grid_over_the_levels_varies_less_and_importance_less_still(generator):
    variances = {}
    for name in LEVEL_SAMPLERS:
        sampler = trained(make_level_sampler(name, level_probabilities(T)), generator)
        draws = [sampler.draw(8, generator) for _ in range(500)]
        variances[name] = torch.stack([(w * losses_of(t)).mean() for t, w in draws]).var().item()
    assert variances["low_discrepancy"] < 0.5 * variances["uniform"]
    assert variances["importance"] < 0.01 * variances["low_discrepancy"]


def test_levels_of_a_batch_are_spread_evenly(generator):
    t, _ = LevelSampler(level_probabilities(1000)).draw(100, generator)
    gaps = t.sort().values.diff()
    assert gaps.min() >= 9
    assert gaps.max() <= 11


def test_one_level_chain_is_always_at_level_one(generator):
    t, weight = LevelSampler(level_probabilities(1, 0.1)).draw(5, generator)
    assert t.tolist() == [1] * 5
    assert weight.tolist() == [1.0] * 5


def test_importance_is_by_the_root_mean_square_of_the_last_losses():
    sampler = ImportanceSampler(level_probabilities(2, 0.3), history=3, uniform_share=0.1)
    before = sampler.probabilities
    sampler.update(torch.tensor([1, 1, 1, 1, 1, 2, 2]), torch.tensor([9.0, 9, 1, 2, 2, 4, 4]))
    assert torch.equal(sampler.probabilities, before)  # level 2 has been seen only twice
    assert before.tolist() == [0.3, 0.7]
    sampler.update(torch.tensor([2]), torch.tensor([-2.0]))
    sizes = math.sqrt((1 + 4 + 4) / 3), math.sqrt((16 + 16 + 4) / 3)
    expected = [0.9 * size / sum(sizes) + 0.05 for size in sizes]
    assert sampler.probabilities.tolist() == pytest.approx(expected)


def test_levels_without_loss_stay_possible():
    sampler = ImportanceSampler(level_probabilities(3), history=1)
    sampler.update(torch.tensor([1, 2, 3]), torch.tensor([0.0, 0.0, 0.0]))
    assert sampler.probabilities.tolist() == pytest.approx([1 / 3] * 3)
    sampler.update(torch.tensor([1]), torch.tensor([5.0]))
    assert sampler.probabilities.min() == pytest.approx(0.001 / 3)


def test_a_restored_sampler_draws_the_same(generator):
    sampler = trained(ImportanceSampler(level_probabilities(T)), generator)
    other = ImportanceSampler(level_probabilities(T))
    other.restore(sampler.state())
    for s in (sampler, other):
        s.update(torch.tensor([3, 4]), torch.tensor([7.0, 8.0]))
    draws = [s.draw(50, torch.Generator().manual_seed(1)) for s in (sampler, other)]
    assert torch.equal(draws[0][0], draws[1][0])
    assert torch.equal(draws[0][1], draws[1][1])
    with pytest.raises(NelboError, match=r"state of the level sampler has .*\(20, 10\).*expected"):
        ImportanceSampler(level_probabilities(5)).restore(sampler.state())


def test_mistakes():
    with pytest.raises(NelboError, match=r"must be positive and sum to 1.*the least is 0\.0"):
        LevelSampler(torch.tensor([0.0, 1.0]))
    with pytest.raises(NelboError, match=r"their sum 0\.5"):
        LevelSampler(torch.tensor([0.25, 0.25]))
    with pytest.raises(NelboError, match=r"unknown level sampler 'sobol'.*low_discrepancy"):
        make_level_sampler("sobol", level_probabilities(3))


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shifted_levels_are_uniform_ones_that_have_moved(shift, generator):
    u = torch.rand(400_000, generator=generator, dtype=torch.float64)
    moved = shift * u / (1 + (shift - 1) * u)
    counts = torch.histc(moved, T, 0.0, 1.0) / len(u)
    expected = shifted_probabilities(T, shift)
    assert expected.sum().item() == pytest.approx(1)
    spread = (expected * (1 - expected) / len(u)).sqrt()
    assert ((counts - expected).abs() < 4 * spread).all()


@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan])
def test_a_shift_is_a_positive_number(shift):
    with pytest.raises(NelboError, match="must be a positive number"):
        shifted_probabilities(T, shift)
