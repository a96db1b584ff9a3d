"""A mean with its error: Student's interval, the parts of the error, and the warnings."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from nelbo import Bound
from nelbo.chain.estimate import Estimate, share_interval, t_quantile


def normal(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [2, 3, 5, 20, 300])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_the_interval_is_students(n, confidence):
    values = 3 + 2 * normal(n)
    found = Estimate.of(values)
    low, high = stats.t.interval(
        confidence, n - 1, loc=values.mean().item(), scale=stats.sem(values.numpy())
    )
    assert found.interval(confidence) == pytest.approx((low, high), rel=1e-9)
    # In bits for nats, and as a cost for a gain, the interval goes with the mean.
    low, high = found.interval()
    assert (found * -2.0).interval() == pytest.approx((-2 * high, -2 * low))
    assert (found * -2.0).examples == n


def test_few_images_are_covered_where_the_normal_quantile_is_too_short():
    """5 normal values, 4,000 times: Student's interval holds the mean 95% of them, 1.96 s 88%."""
    draws = normal(20_000).view(-1, 5)
    student = narrow = 0
    for values in draws:
        found = Estimate.of(values)
        low, high = found.interval()
        student += low <= 0 <= high
        narrow += abs(found.mean) <= 1.96 * found.standard_error
    assert student / len(draws) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))
    assert narrow / len(draws) < 0.90


def test_the_parts_add_up_in_squares():
    values = normal(50)
    found = Estimate.of(values, 0.003)
    assert found.monte_carlo_error == pytest.approx(math.sqrt(0.003))
    assert found.image_error**2 + 0.003 == pytest.approx(values.var().item() / 50)
    # Chance may make the part larger than the whole; no error is then of images.
    assert Estimate.of(values, 9.0).image_error == 0.0
    assert math.isnan(Estimate.of(values).image_error)
    assert (found * -3.0).image_error == pytest.approx(3 * found.image_error)


def test_one_value_has_no_interval():
    found = Estimate.of(torch.tensor([2.5]), 0.04)
    assert found.mean == 2.5
    assert found.monte_carlo_error == pytest.approx(0.2)
    assert all(math.isnan(end) for end in (found.standard_error, *found.interval()))


def test_quantiles_at_the_ends():
    assert t_quantile(0.975, 1) == pytest.approx(12.7062, rel=1e-5)
    assert t_quantile(0.975, math.inf) == pytest.approx(1.959964, rel=1e-6)
    assert math.isnan(t_quantile(0.975, 0))


@pytest.mark.parametrize(("n", "warned"), [(1, True), (19, True), (20, False)])
def test_fewer_than_20_images_are_few(n, warned):
    values = torch.tensor([(-1.0) ** i for i in range(n)], dtype=torch.float64)
    assert any("few" in line for line in Estimate.of(values).warnings()) == warned
    assert len(Estimate.of(values).warnings()) == warned


@pytest.mark.parametrize(("far", "warned"), [(3.4, False), (4.2, True)])
def test_one_image_with_a_fifth_of_the_variance_is_named(far, warned):
    values = torch.tensor([1.0, -1.0] * 30 + [far, -1.0], dtype=torch.float64)
    share = ((values - values.mean()).square() / (values - values.mean()).square().sum()).max()
    assert (share > 0.2) == warned
    found = Estimate.of(values)
    assert found.largest_share == pytest.approx(share.item())
    assert found.largest == 60
    lines = found.warnings([f"{i}.png" for i in range(62)])
    assert any("60.png" in line for line in lines) == warned
    assert len(found.warnings()) == len(lines) == warned


def test_equal_values_are_no_outlier():
    assert Estimate.of(torch.ones(30)).warnings() == []
    assert Estimate.of(torch.tensor([math.inf] + [1.0] * 29)).warnings() == []


def made(score_matching: torch.Tensor, variance: float = 0.0) -> Bound:
    n, K = score_matching.shape
    return Bound(
        reconstruction=torch.zeros(n, dtype=torch.float64),
        prior_matching=torch.zeros(n, dtype=torch.float64),
        score_matching=score_matching,
        levels=torch.full((n, K), 2),
        weights=torch.full((n, K), 2.0, dtype=torch.float64),
        dims=4,
        reconstruction_variance=torch.full((n,), variance, dtype=torch.float64),
    )


def test_a_draw_that_rules_the_monte_carlo_error_is_warned_of():
    calm = normal(400).view(50, 8)
    assert not any("draw" in line for line in made(calm).mean().bits_per_dim.warnings())
    calm[7, 3] = 30.0
    summary = made(calm).mean()
    centred = 2 * (calm - calm.mean(0))
    pairs = (centred[:, ::2] - centred[:, 1::2]).square()
    share = (pairs.max() / pairs.sum()).item()
    assert share > 0.5
    assert summary.nelbo.largest_draw_share == pytest.approx(share)
    assert summary.score_matching.largest_draw_share == pytest.approx(share)
    warnings = summary.bits_per_dim.warnings()
    assert any(f"a single draw has {share:.0%}" in line for line in warnings)
    # Much noise of level 1 makes it one among many.
    assert made(calm, variance=1e3).mean().nelbo.largest_draw_share < 0.1


@pytest.mark.parametrize(("n", "K"), [(2, 2), (2, 3), (3, 2), (3, 5)])
def test_the_monte_carlo_error_of_two_and_three_images_is_unbiased(n, K):
    """Centring the columns takes a share 1/n of their variance, which n/(n − 1) gives back."""
    repeats = 1_000
    draws = normal(repeats * n * K, seed=n + K).view(repeats, n, K)
    variances = [made(one).mean().nelbo.monte_carlo_error ** 2 for one in draws]
    found = torch.tensor(variances, dtype=torch.float64)
    # The sum of K draws of weight 2 and variance 1, over n images.
    exact = 4 * K / n
    assert abs(found.mean().item() - exact) < 4 * found.std().item() / math.sqrt(repeats)
    assert found.std().item() / math.sqrt(repeats) < 0.06 * exact


def test_a_difference_of_strata_in_all_images_alike_is_no_noise():
    """Two columns that differ by a constant: no Monte Carlo error at all, at n = 2 as well."""
    columns = torch.tensor([[5.0, 1.0], [5.0, 1.0]], dtype=torch.float64)
    assert made(columns).mean().nelbo.monte_carlo_error == 0.0


def test_estimates_know_their_number_after_scaling_and_in_summaries():
    summary = made(normal(60).view(30, 2)).mean()
    for value in (summary.nelbo, summary.bits_per_dim, *summary.in_bits.values()):
        assert value.examples == 30


@pytest.mark.parametrize(("count", "of"), [(0, 5), (5, 5), (83, 100), (1, 2), (290, 299)])
def test_the_interval_of_a_share_is_scipy_s(count, of):
    expected = stats.binomtest(count, of).proportion_ci(0.95, method="wilson")
    assert share_interval(count, of) == pytest.approx((expected.low, expected.high))


def test_a_monte_carlo_error_above_the_whole_error_is_warned_of():
    """Two images that happen to be alike make the error over images too small."""
    warnings = Estimate.of(torch.tensor([1.0, 1.001]), variance=0.25).warnings()
    assert any("Monte Carlo part alone is 1e+03 times the whole error" in w for w in warnings)
    for found in (Estimate.of(normal(50), 1e-4), Estimate.of(normal(1), 1e-4)):
        assert not any("part alone" in warning for warning in found.warnings())
    whole = Estimate.of(normal(50)).standard_error
    assert not any("part alone" in w for w in Estimate.of(normal(50), 2 * whole**2).warnings())


@pytest.mark.parametrize(
    ("mean", "error", "shown"),
    [
        (1.73712, 0.01391, "1.737 ± 0.014"),
        (-1787.3, 11.2, "-1787 ± 11"),
        (89.76, 0.996, "89.76 ± 1.00"),
        (7110.0, 2788.0, "7110 ± 2788"),
        (0.0, 0.25, "0.00 ± 0.25"),
        (6.551e-7, 3.2e-8, "(6.55 ± 0.32)e-07"),
        (1e-5, 2e-4, "(0.1 ± 2.0)e-04"),
        (-0.0123, math.nan, "-0.0123"),
        (2.0, 0.0, "2"),
        (math.inf, 1.0, "inf"),
    ],
)
def test_it_is_shown_with_two_digits_of_its_error(mean, error, shown):
    assert repr(Estimate(mean, error)) == shown
