"""The discretised normal against high-precision arithmetic and numerical integration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from nelbo import DiscretizedNormal, NelboError
from nelbo.chain.distributions import (
    Known,
    draw,
    from_levels,
    generator_for,
    narrow,
    normal,
    randn_like,
    rows,
    some_places,
    to_levels,
)


def brute_force_log_prob(x: float, mean: float, std: float, levels: int) -> float:
    """log of the bin's probability by tails from whichever side does not cancel."""
    h = 1 / (levels - 1)
    low = -math.inf if x < -1 + h else (x - h - mean) / std
    high = math.inf if x > 1 - h else (x + h - mean) / std
    if low > 0:  # the upper tail mirrored
        low, high = -high, -low
    a, b = special.log_ndtr(low), special.log_ndtr(high)
    return float(b + np.log1p(-np.exp(a - b))) if math.isfinite(low) else float(b)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("std", [1e-3, 0.02, 0.5, 3.0])
@pytest.mark.parametrize("mean", [-1.0, -0.31, 0.0, 0.9999, 1.7])
def test_probabilities_of_all_levels_sum_to_one(levels, std, mean):
    for dtype in (torch.float32, torch.float64):
        p = DiscretizedNormal(torch.tensor([mean], dtype=dtype), std, levels).log_probs().exp()
        assert abs(p.sum().item() - 1) < 1e-6


@given(
    st.floats(-1.5, 1.5), st.floats(1e-3, 2.0), st.sampled_from([2, 17, 256]), st.integers(0, 255)
)
@settings(max_examples=200, deadline=None)
def test_matches_bin_integration(mean, std, levels, k):
    x = 2 * (k % levels) / (levels - 1) - 1
    expected = brute_force_log_prob(x, mean, std, levels)
    normal = DiscretizedNormal(torch.tensor(mean, dtype=torch.float64), std, levels)
    actual = normal.log_prob(torch.tensor(x, dtype=torch.float64)).item()
    assert actual == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_matches_numerical_integration_of_the_density():
    mean, std, levels = 0.1, 0.07, 17
    h = 1 / (levels - 1)
    for k in range(1, levels - 1):
        x = 2 * k / (levels - 1) - 1
        area, _ = integrate.quad(stats.norm(mean, std).pdf, x - h, x + h, epsabs=1e-14)
        actual = DiscretizedNormal(torch.tensor(mean).double(), std, levels)
        assert actual.log_prob(torch.tensor(x).double()).exp().item() == pytest.approx(
            area, rel=1e-6, abs=1e-13
        )


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forty_standard_deviations_away(side, dtype):
    """mpmath: log(Φ(−39.5) − Φ(−40.5)) for a bin of width σ centred 40σ from the mean."""
    levels = 3  # bins of half-width 1/2 around −1, 0, 1
    std = 1.0
    mean = torch.tensor(side * 40.0, dtype=dtype, requires_grad=True)
    log_prob = DiscretizedNormal(mean, std, levels).log_prob(torch.zeros((), dtype=dtype))
    expected = stats.norm.logsf(39.5) + math.log1p(
        -math.exp(stats.norm.logsf(40.5) - stats.norm.logsf(39.5))
    )
    assert log_prob.item() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(log_prob, mean)
    # d/dμ log P = (φ(low) − φ(high)) / (σ P), which is near 39.5 for the lower bin edge
    density = stats.norm.logpdf(39.5) - expected
    exact = -side * (math.exp(density) - math.exp(stats.norm.logpdf(40.5) - expected))
    assert math.isfinite(gradient.item())
    assert gradient.item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("levels", [17, 256])
def test_gradients_are_finite_everywhere(levels):
    grid = torch.linspace(-1, 1, levels, dtype=torch.float64)
    for std in (1e-4, 1e-2, 1.0):
        mean = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None].requires_grad_()
        scale = torch.tensor(std, dtype=torch.float64, requires_grad=True)
        log_prob = DiscretizedNormal(mean.expand(-1, levels), scale, levels).log_prob(grid)
        assert log_prob.isfinite().all()
        for gradient in torch.autograd.grad(log_prob.sum(), [mean, scale]):
            assert gradient.isfinite().all()


def test_gradient_matches_finite_differences():
    mean = torch.tensor([-1.2, -0.4, 0.03, 0.99], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.3, 0.05, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    for value in (-1.0, 0.0, 1.0):
        x = torch.full((4,), value, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda m, s, x: DiscretizedNormal(m, s, 17).log_prob(x), (mean, scale, x)
        )


def test_samples_follow_the_probabilities():
    torch.manual_seed(0)
    normal = DiscretizedNormal(torch.tensor(0.2), 0.3, 5)
    k = to_levels(normal.sample((40_000,)), 5)
    frequency = torch.bincount(k, minlength=5) / len(k)
    torch.testing.assert_close(frequency.double(), normal.log_probs().exp(), atol=0.01, rtol=0)


def test_levels_round_trip():
    for levels in (2, 17, 256):
        k = torch.arange(levels)
        assert torch.equal(to_levels(from_levels(k, levels), levels), k)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_cost_of_an_image_is_that_of_float64_whatever_the_precision_of_a_network(dtype):
    random = torch.Generator().manual_seed(0)
    x = from_levels(torch.randint(0, 256, (2, 3, 32, 32), generator=random), 256)
    loc = (x + 0.05 * torch.randn(x.shape, generator=random)).to(dtype)
    edge, half = torch.linspace(-1, 1, 256, dtype=torch.float64), 1 / 255
    cdf = torch.distributions.Normal(loc.double(), 0.05).cdf
    upper = torch.where(x.double() >= edge[-1], 1.0, cdf(x.double() + half))
    lower = torch.where(x.double() <= edge[0], 0.0, cdf(x.double() - half))
    exact = (upper - lower).log().flatten(1).sum(1)
    found = DiscretizedNormal(loc, 0.05, 256).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("levels", [17, 256])
def test_the_level_of_a_value_is_the_nearest_whatever_its_precision(levels, dtype):
    x = from_levels(torch.arange(levels), levels).to(dtype)
    grid = torch.linspace(-1, 1, levels, dtype=torch.float64)
    nearest = (x.double()[:, None] - grid).abs().argmin(1)
    assert torch.equal(to_levels(x, levels), nearest)


def test_draw_uses_one_randn_of_the_generator():
    normal = torch.distributions.Normal(torch.full((3, 2), 5.0), 2.0)
    x = draw(normal, torch.Generator().manual_seed(7))
    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(x, 5 + 2 * noise)


def test_one_generator_an_example_makes_noise_independent_of_the_batch() -> None:
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    noise = randn_like(torch.zeros(3, 2, 4), generators(0, 1, 2))
    alone = randn_like(torch.zeros(1, 2, 4), generators(1))
    assert torch.equal(noise[1:2], alone)
    with pytest.raises(NelboError, match="2 generators were given for 3 examples"):
        randn_like(torch.zeros(3, 2, 4), generators(0, 1))


def test_streams_of_noise_are_told_apart_by_every_number_of_their_key():
    keys = [(0,), (0, 0), (1, 2), (2, 1), (12,), (1, 2, 0)]
    seeds = {generator_for(*key).initial_seed() for key in keys}
    assert len(seeds) == len(keys)
    # What was drawn with a seed can be drawn again: the hash stays what it is.
    assert generator_for(1, 2).initial_seed() == 7777801250388762567


def test_some_places_are_different_ones_in_their_order():
    for most in (5, 6):
        assert some_places(5, most, 0).tolist() == [0, 1, 2, 3, 4]
    counts = torch.zeros(6)
    for seed in range(600):
        found = some_places(6, 2, seed)
        assert len(found) == 2
        assert found[0] < found[1]
        counts[found] += 1
    # Each is one of the two a third of the time.
    assert (counts - 200).abs().max() < 4.5 * math.sqrt(600 * 2 / 9)


def test_one_in_twenty_values_is_narrower_than_narrow():
    spread = torch.arange(40.0, 0.0, -1).view(2, 20)
    assert narrow(normal(torch.zeros(2, 20), spread)) == 3  # 1 and 2 of 40 are narrower
    assert narrow(normal(torch.zeros(1), torch.tensor([0.5]))) == 0.5


def test_what_is_known_is_drawn_as_it_is_and_costs_nothing():
    value = torch.randn(3, 2)
    known = Known(value)
    assert torch.equal(draw(known), value)
    assert torch.equal(known.rsample((4,)), value.expand(4, 3, 2))
    assert torch.equal(known.log_prob(value), torch.zeros(3, 2))
    assert torch.equal(known.entropy(), torch.zeros(3, 2))
    some = torch.tensor([2, 0])
    assert torch.equal(rows(known, some).mean, value[some])
    spread = rows(normal(value, value.exp()), some)
    assert torch.equal(spread.mean, value[some])
    assert torch.equal(spread.stddev, value[some].exp())


def test_gradients_pass_the_rounding_of_a_sample():
    loc = torch.tensor([0.1, -0.4], requires_grad=True)
    rounded = DiscretizedNormal(loc, 0.05, 5)
    assert torch.equal(rounded.variance, torch.full((2,), 0.05).square())
    x = rounded.rsample((50,))
    assert (x * 2 == (x * 2).round()).all()
    (gradient,) = torch.autograd.grad(x.sum(), loc)
    assert gradient.tolist() == [50.0, 50.0]


def test_values_out_of_range_are_at_its_ends():
    x = torch.tensor([-3.0, -1.01, -1.0, 1.0, 1.3])
    assert to_levels(x, 17).tolist() == [0, 0, 0, 16, 16]


def test_what_is_no_number_costs_nan_and_is_not_looked_for():
    """Looking at every value would wait for the device at every step."""
    nan = torch.tensor([math.nan, 0.2])
    for distribution in (normal(nan, 0.1), DiscretizedNormal(nan, 0.1, 5)):
        assert distribution.log_prob(torch.zeros(2)).isnan().tolist() == [True, False]
