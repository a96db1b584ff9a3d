"""The theorem where everything is known: the bound with the exact posterior is log p(x)."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from tests.families.linear_chain import LinearChain, by_level


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


class Student(LinearChain):
    """The chain with a decoder of its own, which is off, and the encoder that it has: exact for
    the chain."""

    def __init__(self, size: int, levels: int) -> None:
        super().__init__(size, levels)
        off = 0.3 * torch.ones_like(self.gain)
        self.own = torch.nn.Parameter(self.gain + off)

    @by_level
    def p_step(self, x_t, t, condition=None):
        return self._normal(x_t @ self.own[t - 1].T, self.noise[t - 1])

    def p_data(self, x_1, condition=None):
        return self._normal(x_1 @ self.own[0].T, self.noise[0])


@pytest.mark.parametrize("by", ["paths", "terms"])
def test_a_decoder_is_trained_by_paths_and_by_terms_alike(by):
    """With x of the chain, and so (x, z) of its joint distribution, the gradient of the bound by a
    matrix A_t of the decoder is Q_t⁻¹ (A*_t − A_t) Cov(z_t)."""
    torch.manual_seed(0)
    chain, gradients = Student(2, 3), []
    for _ in range(12):
        x = MultivariateNormal(torch.zeros(2).double(), chain.spread[0]).sample((500,))
        elbo = chain.path_elbo(x) if by == "paths" else chain.elbo(x).elbo
        gradients.append(torch.autograd.grad(elbo.mean(), chain.own)[0])
    found = torch.stack(gradients)
    error = found.std(0) / math.sqrt(len(found))
    off = chain.gain - chain.own.detach()
    expected = torch.linalg.solve(chain.noise, off) @ torch.stack(chain.spread[1:])
    assert ((found.mean(0) - expected).abs() < 4.5 * error).all()
    assert (error < 0.2 * expected.abs().max()).all()
