"""The paired comparison: its p-value by hand, its level, and what it warns of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from nelbo import Bound, NelboError
from nelbo.evidence import compare, rank
from nelbo.evidence.comparison import mean_test

DIMS = 10


def bound(bits: torch.Tensor, dims: int = DIMS) -> Bound:
    """A bound of so many bits/dim for each image."""
    n = len(bits)
    return Bound(
        reconstruction=-bits * dims * math.log(2.0),
        prior_matching=torch.zeros(n, dtype=bits.dtype),
        score_matching=torch.zeros(n, 0, dtype=bits.dtype),
        levels=torch.zeros(n, 0, dtype=torch.int64),
        weights=torch.zeros(n, 0, dtype=bits.dtype),
        dims=dims,
    )


def pair(n: int, shift: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shared = 2 + torch.randn(n, generator=g, dtype=torch.float64)
    own = 0.1 * torch.randn(n, generator=g, dtype=torch.float64)
    return shared, shared + shift + own


def by_hand(values: np.ndarray, resamples: int = 20_000) -> float:
    """The p-value from a bootstrap of numpy's own."""
    n, mean = len(values), values.mean()
    t = mean / (values.std(ddof=1) / math.sqrt(n))
    again = values[np.random.default_rng(0).integers(0, n, (resamples, n))]
    star = (again.mean(1) - mean) / (again.std(1, ddof=1).clip(1e-300) / math.sqrt(n))
    tails = 2 * min((star <= t).mean(), (star >= t).mean())
    return min(1.0, max(tails, (abs(star) >= abs(t)).mean()))


@pytest.mark.parametrize(("n", "shift"), [(8, 0.05), (30, 0.03), (200, 0.01)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_p_value_is_that_of_the_studentised_bootstrap(n, shift, sign):
    first, second = pair(n, shift)
    # Skewed, so that the tails differ.
    second = second + 0.05 * (second - first - shift).exp()
    first, second = sign * first, sign * second
    found = compare(bound(first), bound(second), generator=torch.Generator().manual_seed(1))
    expected = by_hand((first - second).numpy())
    # Both are estimates from 20,000 resamples; the tails are doubled.
    deviation = 2 * math.sqrt(2 * max(expected, 1e-3) / 20_000)
    assert found.p_value == pytest.approx(expected, abs=4 * deviation)


DISTRIBUTIONS = {
    "normal": lambda g, size: g.standard_normal(size),
    "exponential": lambda g, size: g.exponential(size=size) - 1,
    "lognormal": lambda g, size: g.lognormal(size=size) - math.exp(0.5),
}


@pytest.mark.parametrize(("name", "n"), [("normal", 20), ("exponential", 20), ("lognormal", 100)])
def test_equal_means_are_told_apart_no_more_often_than_allowed(name, n, monkeypatch):
    """A sign-flip test rejects 0.073 of the exponential and 0.087 of the lognormal samples."""
    monkeypatch.setattr("nelbo.evidence.comparison._RESAMPLES", 400)
    rng, g = np.random.default_rng(3), torch.Generator().manual_seed(0)
    repetitions = 1_000
    rejected = 0
    for values in DISTRIBUTIONS[name](rng, (repetitions, n)):
        rejected += mean_test(torch.from_numpy(values), g) < 0.05
    deviation = math.sqrt(0.05 * 0.95 / repetitions)
    assert 0.05 - 4 * deviation < rejected / repetitions < 0.08


def test_real_differences_are_found():
    rng = np.random.default_rng(1)
    found = [
        mean_test(torch.from_numpy(rng.standard_normal(30) + 0.8), torch.Generator().manual_seed(i))
        for i in range(40)
    ]
    # The t-test has a power of 0.99 here.
    assert sum(p < 0.05 for p in found) >= 36


def test_no_p_value_is_zero():
    values = 5 + torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = mean_test(values, torch.Generator().manual_seed(0))
    assert 1 / 20_001 <= p <= 3 / 20_001
    # No spread at all: as an equal sign of every image.
    assert mean_test(torch.full((50,), 0.3)) == 1 / 20_001
    assert mean_test(torch.full((3,), -0.3)) == 0.25


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_observed_sample_counts_as_one_of_the_resamples(sign, monkeypatch):
    """None of 9 is as far out: one of 10 in its own tail, which is doubled."""
    monkeypatch.setattr("nelbo.evidence.comparison._RESAMPLES", 9)
    values = 5 + torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert mean_test(sign * values, torch.Generator().manual_seed(0)) == pytest.approx(2 / 10)


def test_p_values_do_not_depend_on_units_or_the_order_of_models():
    values = pair(25, 0.02, seed=2)
    difference = (values[0] - values[1]).double()
    ps = [
        mean_test(factor * difference, torch.Generator().manual_seed(0))
        for factor in (1.0, 1e-6, 1e6, -1.0)
    ]
    assert ps == pytest.approx([ps[0]] * 4)


@pytest.mark.parametrize("n", [2, 3])
def test_two_or_three_images_are_never_enough(n):
    values = torch.tensor([1.0, 1.0001, 0.9999][:n], dtype=torch.float64)
    found = compare(bound(5 + values), bound(torch.full((n,), 5.0).double()))
    assert found.p_value >= 0.05
    assert any(f"no difference of {n} images" in line for line in found.warnings())
    four = torch.tensor([1.0, 1.0001, 0.9999, 1.0002], dtype=torch.float64)
    found = compare(bound(5 + four), bound(torch.full((4,), 5.0).double()))
    assert found.p_value < 0.05
    assert not any("no difference" in line for line in found.warnings())


def test_skewed_differences_and_images_that_decide_are_warned_of():
    calm, _ = pair(100, 0.0)
    zero = torch.zeros(100, dtype=torch.float64)
    assert compare(bound(calm), bound(zero)).warnings() == []
    # 6 large losses of 100: each has a sixth of the variance.
    rare = torch.tensor([10.0] * 6 + [0.0] * 94, dtype=torch.float64)
    found = compare(bound(rare + 1e-3 * calm), bound(zero))
    assert found.skewness == pytest.approx(3.7, abs=0.2)
    assert any("skewness of 3.7, much for 100 images" in line for line in found.warnings())
    rare[0] = 60.0
    names = [f"{i}.png" for i in range(100)]
    lines = compare(bound(rare), bound(zero)).warnings(names)
    assert any("0.png has" in line for line in lines)


def test_pairs_tell_apart_what_the_means_do_not():
    first, second = pair(300, 0.03)
    found = compare(bound(first), bound(second))
    assert found.mean.mean == pytest.approx(float((first - second).mean()))
    assert found.mean.standard_error == pytest.approx(
        float((first - second).std()) / math.sqrt(300)
    )
    assert found.p_value < 1e-3
    assert 0.5 < found.first_wins < 0.75
    assert abs(float(first.mean() - second.mean())) < float(first.std()) / math.sqrt(300)


def test_a_model_equals_itself():
    same = bound(pair(50, 0.0)[0])
    found = compare(same, same)
    assert found.p_value == 1.0
    assert found.first_wins == 0.5
    assert found.warnings() == []


def test_a_bound_that_is_not_finite_has_no_p_value():
    first, second = pair(30, 0.5)
    first[3] = math.nan
    assert math.isnan(compare(bound(first), bound(second)).p_value)


def test_other_images_cannot_be_compared():
    first, second = pair(5, 0.0)
    with pytest.raises(NelboError, match="5 images of 10 dimensions and 4 of 10"):
        compare(bound(first), bound(second[:4]))
    with pytest.raises(NelboError, match="and 5 of 20"):
        compare(bound(first), bound(second, dims=20))
    with pytest.raises(NelboError, match="at least 2 images"):
        compare(bound(first[:1]), bound(second[:1]))


@pytest.mark.parametrize("wrong", [None, "a", torch.zeros(3)])
def test_what_is_no_evidence_is_refused_by_name(wrong):
    right = bound(torch.ones(3))
    with pytest.raises(NelboError, match=r"^first is .*expected what the elbo"):
        compare(wrong, right)
    with pytest.raises(NelboError, match=r"^second is .*expected what the elbo"):
        compare(right, wrong)
    with pytest.raises(NelboError, match=r"^bound is .*expected what the elbo"):
        rank(wrong)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e3])
def test_skewness_is_scipys_in_any_unit(unit):
    generator = torch.Generator().manual_seed(0)
    values = unit * torch.rand(30, generator=generator, dtype=torch.float64).square()
    found = compare(bound(values), bound(torch.zeros(30, dtype=torch.float64)))
    assert found.skewness == pytest.approx(stats.skew(found.difference.numpy()))
    equal = compare(bound(torch.ones(4).double()), bound(torch.zeros(4).double()))
    assert equal.skewness == 0


def test_values_that_differ_by_rounding_alone_are_equal():
    """Three equal signs have a probability of a quarter; a spread of 1e-15 of the mean is none."""
    nearly = torch.tensor([1e6, 1e6, 1e6 + 1e-9], dtype=torch.float64)
    assert len(set(nearly.tolist())) == 2
    assert mean_test(nearly) == mean_test(-nearly) == 0.25
