"""The optimal reverse variance: on Gaussian data it is the true one, and no bound is lost."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import optimize, stats
from torch.distributions import Normal, kl_divergence

from nelbo import (
    Condition,
    Continuous,
    Diffusion,
    NelboError,
    NoiseSchedule,
    fit_variance,
    level_profile,
)
from nelbo.diffusion.profile import LevelProfile
from nelbo.diffusion.rounding import fit_rounded_normal
from tests.diffusion.test_model import Network, make, pixels
from tests.oracles.gaussian import gaussian_model

STD = 0.5
SHAPE = (1, 2, 2)
DIMS = 4
T = 30
SCHEDULE = NoiseSchedule.linear(T, 0.01, 0.6)
CHAINS = [[*range(1, T + 1)], [1, 2, 30], [1, 7, 11, 29], [5, 30], [12], [30]]


def exact_profile(std: float, schedule: NoiseSchedule) -> LevelProfile:
    """What the exact denoiser of N(0, std²) costs, in closed form; only the errors matter."""
    signal = torch.cumprod(1 - schedule.betas, 0)
    error = 1 / (1 / std**2 + signal / (1 - signal).clamp(min=1e-300))
    zeros = torch.zeros_like(error)
    return LevelProfile(
        schedule=schedule,
        levels=torch.arange(1, len(error)),
        squared_error=DIMS * error,
        standard_error=zeros,
        score_matching=zeros,
        score_matching_square=zeros,
        data_variance=error,
        reconstruction=0.5 * DIMS * (torch.log(2 * math.pi * error) + 1),
        squared_norm=DIMS * std**2,
        dims=DIMS,
        examples=1,
        draws=1,
    )


def true_variance(std: float, lower: float, upper: float) -> float:
    """Var[x_s | x_t] of the encoder run on N(0, std²), from the joint normal; ᾱ_s and ᾱ_t."""
    at_s, at_t = lower * std**2 + 1 - lower, upper * std**2 + 1 - upper
    return at_s - upper / lower * at_s**2 / at_t


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("levels", CHAINS, ids=str)
def test_analytic_variance_is_the_true_one_for_every_chain(std, levels):
    whole = gaussian_model(std, SCHEDULE, "fixed_small")
    model = fit_variance(whole, exact_profile(std, SCHEDULE)).respace(levels)
    signal = [1.0, *SCHEDULE.alphas_cumprod[levels].tolist()]
    x = torch.zeros(1, *SHAPE, dtype=torch.float64)
    for t in range(1, len(levels) + 1):
        expected = true_variance(std, signal[t - 1], signal[t])
        assert model.p_step(x, t).variance[0, 0, 0, 0].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("levels", CHAINS, ids=str)
def test_every_chain_is_tight_up_to_prior_matching(levels, generator):
    """With the true reverse steps a path's log ratio is log q(x_0) − log q(x_T)/p(x_T)."""
    model = fit_variance(
        gaussian_model(1.0, SCHEDULE, "fixed_small"), exact_profile(1.0, SCHEDULE)
    ).respace(levels)
    x_0 = torch.randn(50, *SHAPE, generator=generator, dtype=torch.float64)
    density = Normal(0.0, 1.0).log_prob(x_0).flatten(1).sum(1)
    torch.testing.assert_close(model.path_elbo(x_0, generator=generator), density)

    model = fit_variance(
        gaussian_model(STD, SCHEDULE, "fixed_small"), exact_profile(STD, SCHEDULE)
    ).respace(levels)
    x_0 = STD * torch.randn(20_000, *SHAPE, generator=generator, dtype=torch.float64)
    signal = SCHEDULE.alphas_cumprod[levels[-1]].item()
    last = signal * STD**2 + 1 - signal  # the variance of q(x_T)
    expected = -0.5 * math.log(2 * math.pi * math.e * STD**2) - 0.5 * (last - 1 - math.log(last))
    bound = model.elbo(x_0, generator=generator).elbo
    error = (bound.std() / math.sqrt(len(bound))).item()
    assert abs(bound.mean().item() - DIMS * expected) < 4 * error


def test_measured_profile_equals_closed_form(generator):
    model = gaussian_model(STD, SCHEDULE, "fixed_small")
    x_0 = STD * torch.randn(3000, *SHAPE, generator=generator, dtype=torch.float64)
    profile = level_profile(model, x_0, levels=None, generator=generator)
    exact = exact_profile(STD, SCHEDULE)
    assert profile.levels.tolist() == list(range(1, T + 1))
    distance = (profile.squared_error - exact.squared_error)[1:] / profile.standard_error[1:]
    assert distance.abs().max() < 4.5
    # ‖x_0 − x̂_0‖² is its mean / D times a χ² of D degrees
    spread = exact.squared_error * math.sqrt(2 / DIMS) / math.sqrt(3000)
    torch.testing.assert_close(profile.standard_error[1:], spread[1:], rtol=0.1, atol=0)
    torch.testing.assert_close(
        profile.reconstruction[1:], exact.reconstruction[1:], rtol=0, atol=0.2
    )
    # ½ (SNR_{t-1} − SNR_t) e_t is the KL with β̃_t, of the same draws
    kl = 0.5 * -SCHEDULE.snr[1:].diff() * profile.squared_error[2:]
    torch.testing.assert_close(profile.score_matching[2:], kl)
    # for Gaussian errors KL is KL̄/D times a χ² of D degrees: E KL² = KL̄² (1 + 2/D)
    ratio = profile.score_matching_square[2:] / profile.score_matching[2:].square()
    torch.testing.assert_close(ratio.mean().item(), 1 + 2 / DIMS, rtol=0.05, atol=0)
    torch.testing.assert_close(
        profile.prior_matching[-1].item(), model.prior_matching(x_0).mean().item()
    )


@pytest.mark.parametrize("batch_size", [1, 3, 10, 25])
def test_a_profile_is_the_same_however_many_share_a_call(batch_size):
    """A part of the examples at a level, all of them, or those of several levels."""
    model, x_0 = make("sample", "fixed_small"), pixels(5)
    labels = Condition(label=torch.arange(5))

    def found(batch_size: int | None) -> LevelProfile:
        seeded = torch.Generator().manual_seed(0)
        return level_profile(
            model, x_0, labels, levels=4, draws=2, batch_size=batch_size, generator=seeded
        )

    with torch.no_grad():
        apart, together = found(batch_size), found(None)
        noise = torch.randn(
            10, *x_0.shape[1:], generator=torch.Generator().manual_seed(0), dtype=x_0.dtype
        )
        data, twice = x_0.repeat(2, 1, 1, 1), labels.repeat(2)
        for t in apart.levels.tolist():
            predicted = model.predict(model.diffuse(data, noise, t), t, twice).x_0
            error = (data - predicted).square().flatten(1).sum(1).mean()
            torch.testing.assert_close(apart.squared_error[t], error)
    for name in ("squared_error", "standard_error", "score_matching", "reconstruction"):
        torch.testing.assert_close(getattr(apart, name)[1:], getattr(together, name)[1:])


def test_no_other_scalar_variance_has_a_lower_kl(generator):
    whole = make("sample", "learned_range", data=Continuous())
    x_0 = pixels(2000)
    model = fit_variance(whole, x_0, levels=None, generator=generator).respace([1, 3, 4, 9, 12])
    with torch.no_grad():
        for t in range(2, 6):
            x_t = model.q_marginal(x_0, t).sample()
            q, p = model.q_posterior(x_t, x_0, t), model.p_step(x_t, t)

            def divergence(factor: float, q=q, p=p) -> float:
                scaled = Normal(p.mean, p.stddev * math.sqrt(factor))
                return kl_divergence(q, scaled).flatten(1).sum(1).mean().item()

            costs = {factor: divergence(factor) for factor in (0.5, 0.9, 1.0, 1.1, 2.0)}
            assert min(costs, key=costs.get) == 1.0
            assert p.variance.unique().numel() == 1


@pytest.mark.parametrize(
    ("levels", "spread"), [(2, 1.5), (17, 0.05), (17, 0.4), (256, 0.02), (256, 0.4)]
)
def test_variance_of_rounded_data_is_the_likeliest(spread, levels):
    x = pixels(40, levels=levels)
    noise = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mean = (x + spread * noise).clamp(-1.2, 1.2)
    h = 1 / (levels - 1)
    value, centre = x.flatten().numpy(), mean.flatten().numpy()
    low = [-math.inf if v < -1 + h else v - h for v in value]
    high = [math.inf if v > 1 - h else v + h for v in value]

    def cost(log_scale: float) -> float:
        scale = math.exp(log_scale)
        mass = stats.norm.cdf(high, centre, scale) - stats.norm.cdf(low, centre, scale)
        return 1e9 if (mass <= 0).any() else -sum(map(math.log, mass)) / len(mass)

    found = fit_rounded_normal(x, mean, levels)
    best = optimize.minimize_scalar(
        cost, bounds=(math.log(found) / 2 - 1, math.log(found) / 2 + 1), method="bounded"
    )
    assert cost(0.5 * math.log(found)) <= best.fun + 3e-5


def test_variance_of_predictions_that_all_round_right_stays_above_zero():
    x = pixels(5)
    assert fit_rounded_normal(x, x + 0.01, 17) == pytest.approx((1 / 16 / 8) ** 2, rel=0.05)


def test_variance_of_predictions_that_are_all_on_the_wrong_side_stays_finite():
    """Black where white is predicted: the wider the likelier, and the search ends at 4 times."""
    x = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(50)
    assert fit_rounded_normal(x, -0.5 * x, 17) == pytest.approx((4 * 1.5) ** 2, rel=0.05)


def test_network_with_a_learned_variance_loses_it(generator):
    whole = make("epsilon", "learned_range")
    model = fit_variance(whole, pixels(20), levels=None, generator=generator)
    x_t = pixels(3, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(model.predict(x_t, 4).x_0, whole.predict(x_t, 4).x_0)
        assert model.predict(x_t, 4).variance.numel() == 1
    assert model.profile is not None
    assert model.respace([2, 5]).profile is model.profile


def test_what_is_missing_is_named(generator):
    schedule = NoiseSchedule.linear(6, 0.1, 0.5)
    with pytest.raises(NelboError, match="fit_variance"):
        Diffusion(Network(), schedule, variance="analytic")
    profile = exact_profile(STD, SCHEDULE)
    for other in (schedule, NoiseSchedule.linear(T, 0.01, 0.5)):
        with pytest.raises(NelboError, match="another chain"):
            Diffusion(Network(), other, variance="analytic", profile=profile)
    model = gaussian_model(STD, SCHEDULE, "fixed_small")
    x_0 = torch.zeros(2, *SHAPE)
    with pytest.raises(NelboError, match="draws must be at least 1, got 0"):
        level_profile(model, x_0, draws=0)
    with pytest.raises(NelboError, match="levels must be at least 1, got 0"):
        level_profile(model, x_0, levels=0)


@pytest.mark.parametrize("draws", [1, 16])
def test_the_standard_error_is_over_images_whatever_their_draws(draws):
    """Images of very different costs: 90% of the intervals hold the mean, with 16 draws as well."""
    model, level, n, repetitions = gaussian_model(STD, SCHEDULE, "fixed_small"), T, 12, 120
    generator = torch.Generator().manual_seed(draws)
    # x̂_0 is linear, so E‖x_0 − x̂_0‖² = (1 − c a)² ‖x_0‖² + D c² s² with x̂_0 = c x_t.
    signal = float(SCHEDULE.alphas_cumprod[level])
    c = signal**0.5 * STD**2 / (signal * STD**2 + 1 - signal)
    exact = DIMS * ((1 - c * signal**0.5) ** 2 * STD**2 + c**2 * (1 - signal))
    z = []
    for _ in range(repetitions):
        x_0 = STD * torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64)
        found = level_profile(model, x_0, levels=3, draws=draws, generator=generator)
        z.append(float((found.squared_error[level] - exact) / found.standard_error[level]))
    z = torch.tensor(z)
    inside = (z.abs() <= stats.t.ppf(0.9 / 2 + 0.5, n - 1)).double().mean().item()
    assert inside == pytest.approx(0.9, abs=0.1)
    assert 0.75 < z.std().item() < 1.45


def test_of_one_image_the_standard_error_is_not_known():
    model = gaussian_model(STD, SCHEDULE, "fixed_small")
    found = level_profile(model, torch.zeros(1, *SHAPE).double(), levels=5, draws=4)
    assert found.standard_error[1:].isnan().all()


def test_a_profile_is_dropped_where_the_schedule_changes_and_kept_where_it_does_not():
    profile = exact_profile(STD, SCHEDULE)
    model = gaussian_model(STD, SCHEDULE, "fixed_large").with_profile(profile)
    assert model.respace([2, 5, 30]).profile is profile
    changed = model.replace(schedule=NoiseSchedule.linear(T, 0.01, 0.5))
    assert changed.profile is None
    # The analytic variance cannot do without, and says what differs.
    fitted = fit_variance(model, profile)
    with pytest.raises(NelboError, match=r"signal power ᾱ at level \d+ is 0\.\d+ in the model and"):
        fitted.replace(schedule=NoiseSchedule.linear(T, 0.01, 0.5))
    with pytest.raises(NelboError, match="30 levels, none of which has the network time 30"):
        fitted.replace(schedule=NoiseSchedule.linear(T + 5, 0.01, 0.5))
