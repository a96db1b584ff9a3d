"""The bound of a diffusion model of Gaussian data against its closed form."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import NoiseSchedule
from tests.oracles.gaussian import entropy, expected_terms, gaussian_model

STD = 0.5
SHAPE = (1, 2, 2)
DIMS = 4


def standard_error(x: torch.Tensor) -> float:
    return (x.std() / math.sqrt(len(x))).item()


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("T", [2, 10, 50])
def test_every_term_equals_its_closed_form(variance, T, generator):
    schedule = NoiseSchedule.linear(T, 0.1 / T, min(20 / T, 0.9))
    model = gaussian_model(STD, schedule, variance)
    x_0 = STD * torch.randn(20_000, *SHAPE, generator=generator, dtype=torch.float64)
    bound = model.elbo(x_0, generator=generator)
    reconstruction, prior, kl = expected_terms(STD, schedule.betas[1:], variance)

    def near(values: torch.Tensor, expected: float) -> None:
        assert abs(values.mean().item() - expected * DIMS) < 4.5 * standard_error(values) + 1e-9

    near(bound.reconstruction, reconstruction)
    near(bound.prior_matching, prior)
    assert bound.levels[0].tolist() == list(range(2, T + 1))
    for column, t in enumerate(range(2, T + 1)):
        near(bound.score_matching[:, column], kl[t].item())
    near(bound.elbo, reconstruction - prior - kl.sum().item())


def test_gap_to_the_likelihood_is_positive_and_closes_with_T(generator):
    """With the optimal variance the bound tends to the true log-likelihood."""
    gaps = []
    for T in (10, 100, 1000):
        schedule = NoiseSchedule.linear(T, 0.1 / T, min(20 / T, 0.999))
        reconstruction, prior, kl = expected_terms(STD, schedule.betas[1:], "fixed_large")
        gaps.append(-entropy(STD) - (reconstruction - prior - kl.sum().item()))
    assert all(gap > 0 for gap in gaps)
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]
    assert gaps[2] < 0.01

    # and the model's own bound, by the theorem and by its definition, has that gap at T = 1000
    reconstruction, prior, kl = expected_terms(
        STD, NoiseSchedule.linear(1000).betas[1:], "fixed_large"
    )
    expected_bound = reconstruction - prior - kl.sum().item()
    model = gaussian_model(STD, NoiseSchedule.linear(1000), "fixed_large", shape=(1, 8, 8))
    x_0 = STD * torch.randn(600, 1, 8, 8, generator=generator, dtype=torch.float64)
    density = torch.distributions.Normal(0.0, STD).log_prob(x_0).flatten(1).sum(1)
    bound = model.elbo(x_0, generator=generator)
    gap = (density - bound.elbo) / bound.dims
    # along a path the encoder's and the decoder's ratios nearly cancel: little noise is left
    path_gap = (density - model.path_elbo(x_0, generator=generator)) / bound.dims
    for estimate in (gap, path_gap):
        expected = -entropy(STD) - expected_bound
        assert abs(estimate.mean().item() - expected) < 4 * standard_error(estimate)
    assert path_gap.mean().item() > 3 * standard_error(path_gap)
    assert path_gap.mean().item() + 3 * standard_error(path_gap) < 0.01


@pytest.mark.parametrize("skill", [1.0, 0.8], ids=["exact denoiser", "poor denoiser"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_theorem_path_and_decomposed_bound_agree(skill, variance, generator):
    schedule = NoiseSchedule.linear(20, 0.01, 0.5)
    model = gaussian_model(STD, schedule, variance, skill=skill)
    x_0 = STD * torch.randn(20_000, *SHAPE, generator=generator, dtype=torch.float64)
    path = model.path_elbo(x_0, generator=generator)
    terms = model.elbo(x_0, generator=generator).elbo
    difference = path - terms
    assert abs(difference.mean().item()) < 3 * standard_error(difference)


def test_exact_reverse_process_makes_paths_cancel(generator):
    """For unit-variance data β_t is the exact reverse variance: every path has the same ratio."""
    model = gaussian_model(1.0, NoiseSchedule.linear(50, 0.01, 0.2), "fixed_large")
    x_0 = torch.randn(500, *SHAPE, generator=generator, dtype=torch.float64)
    density = torch.distributions.Normal(0.0, 1.0).log_prob(x_0).flatten(1).sum(1)
    torch.testing.assert_close(model.path_elbo(x_0, generator=generator), density)

    terms = model.elbo(x_0, generator=generator).elbo
    assert (terms - density).std() > 0.1  # single terms do not cancel


def test_respaced_chain_is_a_valid_and_never_better_bound(generator):
    """Nested chains are coarser upper sums of one integral.

    They keep levels 1 and 2, because level 2 decides β̃_2, the variance of p(x_0|x_1).
    """
    T = 60
    schedule = NoiseSchedule.linear(T, 0.002, 0.2)
    full = gaussian_model(STD, schedule, "fixed_small")
    nested = [[1, *range(2, T + 1)], [1, 2, *range(4, T + 1, 2)], [1, 2, *range(4, T + 1, 8)]]
    x_0 = STD * torch.randn(40_000, *SHAPE, generator=generator, dtype=torch.float64)
    density = -entropy(STD) * DIMS
    bounds = [full.respace(levels).elbo(x_0, generator=generator).elbo for levels in nested]
    means = [bound.mean().item() for bound in bounds]
    error = max(standard_error(bound) for bound in bounds)
    assert all(mean < density for mean in means)
    assert means[0] > means[1] - 3 * error
    assert means[1] > means[2] - 3 * error
