"""The theorem where everything is known: the bound with the exact posterior is log p(x)."""

from __future__ import annotations

import math

import pytest
import torch

from tests.families.linear_chain import LinearChain


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_paths_of_the_exact_posterior_have_the_likelihood_each(levels, generator):
    chain = LinearChain(3, levels)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    torch.testing.assert_close(chain.path_elbo(x), chain.log_prob(x), atol=1e-8, rtol=0)


@pytest.mark.parametrize("levels", [2, 5])
def test_terms_of_the_exact_posterior_add_up_to_the_likelihood(levels, generator):
    """The mean over draws; every KL of the score matching terms is zero, whatever the draw."""
    chain = LinearChain(2, levels)
    x = torch.randn(1, 2, generator=generator, dtype=torch.float64).expand(4000, 2)
    torch.manual_seed(0)
    bound = chain.elbo(x)
    assert bound.prior_matching.min() > 0
    error = bound.elbo.std() / math.sqrt(len(x))
    assert abs(bound.elbo.mean() - chain.log_prob(x[:1])) < 4 * error


def test_a_wrong_posterior_costs_its_kl(generator):
    """Off by δ in z_1, the gap of paths and of terms alike is KL(q(z_1|x) ‖ p(z_1|x))."""
    chain = LinearChain(2, 3, tilt=0.4)
    x = torch.randn(1, 2, generator=generator, dtype=torch.float64).expand(6000, 2)
    covariance = chain.q_marginal(x[:1], 1).covariance_matrix[0]
    off = torch.full((2,), 0.4, dtype=torch.float64)
    kl = 0.5 * off @ torch.linalg.solve(covariance, off)
    torch.manual_seed(0)
    for elbo in (chain.path_elbo(x), chain.elbo(x).elbo):
        gap = chain.log_prob(x) - elbo
        assert abs(gap.mean() - kl) < 4 * gap.std() / math.sqrt(len(x))
