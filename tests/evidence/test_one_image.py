"""Where the levels of one image are drawn: a guess in closed form, and what rounds learn."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import nelbo
from nelbo.chain.bound import Bound
from nelbo.chain.estimators import UNIFORM_SHARE, FirstLevel, Importance
from nelbo.diffusion.profile import LevelProfile
from nelbo.evidence.image_rounds import LevelChoice
from nelbo.evidence.reading_levels import (
    first_guess,
    levels_to_read,
    profiled_square,
    unit_normal_costs,
)

T = 30


class White(torch.nn.Module):
    """The exact denoiser of white noise of unit variance: E[x_0|x_t] = √ᾱ_t x_t."""

    def __init__(self, schedule: nelbo.NoiseSchedule) -> None:
        super().__init__()
        self.root = schedule.alphas_cumprod.sqrt().float()
        self.times = schedule.network_times

    def forward(self, x_t, time, condition):
        t = torch.searchsorted(self.times[1:].to(time), time.contiguous()) + 1
        return self.root[t].view(-1, 1, 1, 1) * x_t


@pytest.fixture
def white() -> nelbo.Diffusion:
    schedule = nelbo.NoiseSchedule.cosine(T)
    return nelbo.Diffusion(
        White(schedule), schedule, prediction="sample", data=nelbo.Continuous(), shape=(1, 8, 8)
    )


def test_the_guess_is_what_white_noise_costs(white, generator):
    x_0 = torch.randn(400, 1, 8, 8, generator=generator)
    with torch.no_grad():
        cost = white.elbo(x_0, generator=generator).score_matching.double().mean(0)
    guess = (first_guess(white) - UNIFORM_SHARE / (T - 1)) / (1 - UNIFORM_SHARE)
    assert guess.sum() == pytest.approx(1)
    torch.testing.assert_close(guess, cost / cost.sum(), rtol=0.05, atol=1e-4)


def test_a_profile_is_the_better_guess_if_it_has_costs(white):
    profile = LevelProfile.of_variances(white.schedule, white.schedule.posterior_variance)
    nothing = white.with_profile(profile)
    assert torch.equal(first_guess(nothing), first_guess(white))
    square = torch.zeros(T + 1, dtype=torch.float64)
    square[5] = 1
    known = first_guess(white.with_profile(replace(profile, score_matching_square=square)))
    assert known.argmax() == 5 - 2
    assert known.min() == pytest.approx(UNIFORM_SHARE / (T - 1))


def test_no_levels_to_guess():
    assert len(first_guess(None)) == 0
    choice = LevelChoice(torch.empty(0))
    choice.learn(_drawn(torch.empty(0, dtype=torch.int64), torch.empty(0)))
    assert len(choice.proposal) == 0


def test_rounds_learn_what_levels_cost(generator):
    """From a uniform guess to costs that fall by a factor of a thousand."""
    true = torch.logspace(0, -3, T - 1, dtype=torch.float64)
    choice = LevelChoice(torch.full((T - 1,), 1 / (T - 1)))
    for _ in range(3):
        levels = Importance(32, choice.proposal).choose(1, T, generator).levels[0]
        choice.learn(_drawn(levels, true[levels - 2]))
        assert choice.proposal.sum() == pytest.approx(1)
        assert choice.proposal.min() >= 0.99 * UNIFORM_SHARE / (T - 1)
    best = UNIFORM_SHARE / (T - 1) + (1 - UNIFORM_SHARE) * true / true.sum()
    assert 0.5 * (choice.proposal - best).abs().sum() < 0.08


def test_costs_that_are_not_finite_leave_the_guess():
    guess = torch.full((T - 1,), 1 / (T - 1)).double()
    choice = LevelChoice(guess)
    choice.learn(_drawn(torch.tensor([2, 3, 4, 5]), torch.tensor([1.0, float("inf"), 2.0, 3.0])))
    assert torch.equal(choice.proposal, guess)


def test_level_one_alone_merges_with_the_others(white, generator):
    x_0 = torch.randn(3, 1, 8, 8, generator=generator)
    with torch.no_grad():
        first = white.elbo(x_0, levels=FirstLevel(reconstructions=4), generator=generator)
        above = white.elbo(
            x_0, levels=Importance(16, first_guess(white), reconstructions=0), generator=generator
        )
    assert first.score_matching.shape == (3, 0)
    merged = Bound.merge([first, above])
    expected = first.reconstruction - above.prior_matching - above.total_score_matching
    torch.testing.assert_close(merged.elbo, expected.to(merged.elbo))
    assert merged.calls.tolist() == [20] * 3


def _drawn(levels: torch.Tensor, costs: torch.Tensor) -> Bound:
    one = torch.zeros(1)
    row = costs[None]
    return Bound(one, one, row, levels[None], torch.ones_like(row), dims=1)


def test_a_normal_of_unit_variance_costs_by_every_level_alone():
    """KL = ½ (SNR_{t−1} − SNR_t) E (x_0 − x̂_0)² and E (x_0 − x̂_0)² = 1 − ᾱ_t, from ᾱ alone."""
    schedule = nelbo.NoiseSchedule.cosine(6)
    signal = schedule.alphas_cumprod.tolist()
    snr = [math.inf, *(a / (1 - a) for a in signal[1:])]
    expected = [0.5 * (snr[t - 1] - snr[t]) * (1 - signal[t]) for t in range(2, 7)]
    found = unit_normal_costs(schedule)
    assert found.tolist() == pytest.approx([0, 0, *expected])


def test_levels_to_read(white):
    """Of a density by its costs, of pixels evenly, and all of a chain that has no more."""
    for count in (T - 1, T):
        assert levels_to_read(white, count) is None
    found = levels_to_read(white, T - 2)
    assert isinstance(found, Importance)
    assert found.levels == T - 2
    torch.testing.assert_close(found.proposal, first_guess(white))
    pixels = nelbo.Diffusion(
        white.network, white.schedule, prediction="sample", data=nelbo.Pixels(8), shape=(1, 8, 8)
    )
    assert levels_to_read(pixels, 5) == 5
    assert levels_to_read(pixels, T - 1) is None


def test_a_profile_of_another_chain_is_no_guess(white):
    """A respaced chain keeps the profile of the whole one, whose levels are others."""
    profile = LevelProfile.of_variances(white.schedule, white.schedule.posterior_variance)
    known = replace(profile, score_matching_square=torch.ones(T + 1, dtype=torch.float64))
    assert profiled_square(None) is None
    assert profiled_square(white) is None
    assert torch.equal(profiled_square(white.with_profile(known)), known.score_matching_square)
    assert profiled_square(white.with_profile(known).respace([1, 2, 5, 9])) is None
    assert len(first_guess(white.respace([4]))) == 0
    assert first_guess(white.respace([4, 8])).tolist() == pytest.approx([1.0])
