"""Optimal levels against all subsets, and their costs against the bound of respaced chains."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from nelbo import (
    Continuous,
    LevelProfile,
    NelboError,
    NoiseSchedule,
    fit_variance,
    level_profile,
    optimal_levels,
)
from nelbo.diffusion.measurement import levels_to_measure
from nelbo.diffusion.optimal_levels import step_costs
from nelbo.samplers.grid import spaced_levels
from tests import typechecking
from tests.diffusion.chain_costs import cost, rising_profile
from tests.diffusion.test_model import T, make, pixels
from tests.oracles.gaussian import expected_terms, gaussian_model
from tests.oracles.test_optimal_variance import exact_profile

SMALL = 9


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("variance", ["analytic", "fixed_small"])
def test_no_other_chain_is_better(variance, seed):
    profile = rising_profile(SMALL, seed)
    first = range(1, SMALL + 1) if variance == "analytic" else [1]
    for K in range(1, SMALL + 1):
        found = optimal_levels(profile, K, variance=variance)
        chains = itertools.combinations(range(1, SMALL + 1), K)
        best = min((c for c in chains if c[0] in first), key=lambda c: cost(profile, c, variance))
        assert tuple(found) == best
    assert optimal_levels(profile, 3) != [1, 5, 9]  # nothing like an even spacing


@pytest.mark.parametrize("data", [None, Continuous()], ids=["pixels", "continuous"])
def test_costs_are_the_bound_of_the_respaced_chain(data, generator):
    model = make("sample", "fixed_small", data=data, clip_sample=True)
    x_0 = pixels(100)
    profile = level_profile(model, x_0, levels=None, draws=10, generator=generator)
    levels = [2, 3, 7, 12]
    repeated = x_0.repeat(10, 1, 1, 1)
    for variance in ("analytic", "fixed_small"):
        chain = model.with_profile(profile, variance=variance).respace(levels)
        with torch.no_grad():
            bound = chain.elbo(repeated, generator=generator)
        steps = step_costs(profile, variance=variance)
        for column, (s, t) in enumerate(itertools.pairwise(levels)):
            measured = bound.score_matching[:, column]
            error = 4 * (measured.std() / math.sqrt(len(measured))).item()
            assert abs(measured.mean().item() - steps[s, t].item()) < error + 1e-9
        torch.testing.assert_close(bound.prior_matching.mean(), profile.prior_matching[12])
        if variance == "analytic":
            measured = -bound.reconstruction
            error = 4 * (measured.std() / math.sqrt(len(measured))).item()
            assert abs(measured.mean().item() - profile.reconstruction[2].item()) < error
            assert error < 0.5


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_interpolated_levels_are_close_to_measured_ones(variance, generator):
    """Errors of a network that is smooth in the level, here an exact denoiser."""
    schedule = NoiseSchedule.linear(200, 1e-3, 0.1)
    model = gaussian_model(0.5, schedule, variance)
    x_0 = 0.5 * torch.randn(6000, 1, 2, 2, generator=generator, dtype=torch.float64)
    profile = level_profile(model, x_0, levels=30, generator=generator)
    measured = profile.levels.tolist()
    assert measured[:3] == [1, 2, 3]
    assert measured[-1] == 200
    assert 25 <= len(measured) <= 32
    _, _, kl = expected_terms(0.5, schedule.betas[1:], variance)
    error = 4 / (4 + schedule.snr[1:])  # of four dimensions
    torch.testing.assert_close(profile.squared_error[1:], error, rtol=0.05, atol=0)
    torch.testing.assert_close(profile.score_matching[2:], 4 * kl[2:], rtol=0.06, atol=0)


@pytest.mark.usefixtures("without_shape_checks")
def test_profile_is_stored_whole(tmp_path, generator):
    profile = level_profile(make(), pixels(6), levels=None, generator=generator)
    profile.save(tmp_path / "p.safetensors")
    loaded = LevelProfile.load(tmp_path / "p.safetensors")
    for name, value in vars(profile).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(loaded, name), value)
        elif name != "schedule":
            assert getattr(loaded, name) == value
    assert torch.equal(loaded.schedule.noise_power, profile.schedule.noise_power)
    assert optimal_levels(loaded, 4) == optimal_levels(profile, 4)

    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    replace(profile, squared_error=profile.squared_error[:-1]).save(tmp_path / "cut.safetensors")
    for name in ("bad.safetensors", "none.safetensors", "cut.safetensors"):
        with pytest.raises(NelboError, match=f"{name} is not a level profile"):
            LevelProfile.load(tmp_path / name)


def test_fifty_of_a_thousand_levels_beat_even_spacing():
    profile = exact_profile(0.5, NoiseSchedule.linear(1000))
    steps = step_costs(profile, variance="fixed_small")
    levels = optimal_levels(profile, 50, variance="fixed_small")
    assert levels[0] == 1
    assert levels == sorted(set(levels))
    assert len(levels) == 50

    def total(chain: list[int]) -> float:
        between = sum(steps[s, t].item() for s, t in itertools.pairwise(chain))
        return between + profile.prior_matching[chain[-1]].item()

    assert total(levels) < 0.7 * total(spaced_levels(1000, 50, "linspace"))


@pytest.mark.parametrize("K", [0, SMALL + 1, 1.5, None])
def test_mistakes(K, monkeypatch):
    monkeypatch.setattr(typechecking, "MOST_CHECKS", 0)  # which would find some of them first
    with pytest.raises(NelboError, match=rf"K must lie in 1\.\.{SMALL}, .* got {K}"):
        optimal_levels(rising_profile(SMALL, 0), K)
    with pytest.raises(NelboError, match="unknown variance 'learned_range'"):
        optimal_levels(rising_profile(SMALL, 0), 3, variance="learned_range")
    with pytest.raises(NelboError, match=r"^profile is None"):
        optimal_levels(None, 3)
    with pytest.raises(NelboError, match=r"^model is None"):
        fit_variance(None, rising_profile(SMALL, 0))


def test_every_level_of_the_chain_is_one_of_the_choices(generator):
    """At K = T there is one chain only, and K = 1 pays reconstruction and prior alone."""
    model = fit_variance(make(), pixels(50), levels=None, generator=generator)
    assert model.profile is not None
    assert optimal_levels(model.profile, T) == list(range(1, T + 1))
    total = model.profile.reconstruction + model.profile.prior_matching
    assert optimal_levels(model.profile, 1) == [int(total[1:].argmin()) + 1]


def test_one_level_is_the_last_where_only_the_prior_matters():
    profile = rising_profile(SMALL, 0)
    free = replace(profile, reconstruction=torch.zeros_like(profile.reconstruction))
    assert optimal_levels(free, 1) == [SMALL]


def test_the_profile_of_given_variances_gives_a_chain_these_variances():
    """Between β̃ and β, as a checkpoint may have them."""
    model = make("sample", "fixed_small")
    small, large = model.schedule.posterior_variance, model.schedule.betas
    given = small + torch.linspace(0.1, 0.9, T + 1, dtype=torch.float64) * (large - small)
    profile = LevelProfile.of_variances(model.schedule, given)
    assert profile.levels.tolist() == list(range(1, T + 1))
    assert (profile.dims, profile.examples, profile.draws) == (1, 0, 0)
    chain, x_t = model.with_profile(profile, variance="analytic"), pixels(2)
    with torch.no_grad():
        for t in range(2, T + 1):
            variance = chain.p_step(x_t, t).variance
            torch.testing.assert_close(variance, given[t].expand_as(variance))
    assert profile.data_variance[1] == given[1]


def test_levels_to_measure_are_even_in_the_level_and_in_the_logarithm_of_noise():
    schedule = NoiseSchedule.linear(50, 1e-3, 0.2)
    noise = [math.log(1 - signal) for signal in schedule.alphas_cumprod.tolist()[1:]]
    place = [k / 49 + (each - noise[0]) / -noise[0] for k, each in enumerate(noise)]
    expected = {1, 2, 50}
    for k in range(10):
        wanted = place[-1] * k / 9
        expected.add(min(50, 1 + sum(each < wanted - 1e-12 for each in place)))
    assert levels_to_measure(schedule, 11) == sorted(expected)
