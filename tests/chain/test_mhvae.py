"""The theorem for an MHVAE that is no diffusion model, against brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from nelbo import MHVAE, NelboError, TractableMHVAE

A = (0.9, 0.7, 0.5)  # x_t = A_t x_{t-1} + noise of variance V_t: neither preserves variance
V = (0.3, 0.2, 0.6)


class Toy(TractableMHVAE):
    """A one-dimensional linear chain of three levels with a decoder of its own."""

    num_levels = 3
    shape = (1,)

    def _cumulative(self, t: int) -> tuple[float, float]:
        scale, variance = 1.0, 0.0
        for a, v in zip(A[:t], V[:t], strict=True):
            scale, variance = a * scale, a * a * variance + v
        return scale, variance

    def q_step(self, x_prev, t):
        return Normal(A[t - 1] * x_prev, math.sqrt(V[t - 1]))

    def _each(self, t):
        return t if isinstance(t, int) else int(t[0])

    def q_marginal(self, x_0, t):
        scale, variance = self._cumulative(self._each(t))
        return Normal(scale * x_0, math.sqrt(variance))

    def q_posterior(self, x_t, x_0, t):
        t = self._each(t)
        scale, variance = self._cumulative(t - 1)
        a, v = A[t - 1], V[t - 1]
        precision = 1 / variance + a * a / v
        mean = (scale * x_0 / variance + a * x_t / v) / precision
        return Normal(mean, math.sqrt(1 / precision))

    def p_prior(self, shape):
        return Normal(torch.zeros(shape, dtype=torch.float64), 1.1)

    def p_step(self, x_t, t, condition=None):
        return Normal(0.8 * x_t + 0.1, 0.7)

    def p_data(self, x_1, condition=None):
        return Normal(0.95 * x_1 - 0.05, 0.4)


def exact_bound(x_0: float) -> float:
    """E_q[log p − log q] from the joint normal of the path: all terms are quadratic in it."""
    mean = torch.zeros(3, dtype=torch.float64)
    covariance = torch.zeros(3, 3, dtype=torch.float64)
    previous, variance = x_0, 0.0
    for t in range(3):
        mean[t] = previous = A[t] * previous
        variance = A[t] ** 2 * variance + V[t]
        covariance[t, t] = variance
        for s in range(t):
            covariance[s, t] = covariance[t, s] = A[t] * covariance[s, t - 1]
    entropy_q = MultivariateNormal(mean, covariance).entropy().item()

    def expected_log_normal(weights: list[float], constant: float, std: float) -> float:
        """E log N(0; residual) of the residual weights·(x_1,x_2,x_3) + constant."""
        w = torch.tensor(weights, dtype=torch.float64)
        second = (w @ mean + constant) ** 2 + w @ covariance @ w
        return -0.5 * (math.log(2 * math.pi * std**2) + second.item() / std**2)

    log_p = (
        expected_log_normal([0, 0, 1], 0, 1.1)
        + expected_log_normal([0, 1, -0.8], -0.1, 0.7)
        + expected_log_normal([1, -0.8, 0], -0.1, 0.7)
        + expected_log_normal([0.95, 0, 0], -0.05 - x_0, 0.4)
    )
    return log_p + entropy_q


@pytest.mark.parametrize("x", [-1.3, 0.4])
def test_both_forms_equal_the_exact_bound(x, generator):
    model, n = Toy(), 100_000
    x_0 = torch.full((n, 1), x, dtype=torch.float64)
    exact = exact_bound(x)
    for values in (
        model.path_elbo(x_0, generator=generator),
        model.elbo(x_0, generator=generator).elbo,
    ):
        assert abs(values.mean().item() - exact) < 4 * values.std().item() / math.sqrt(n)


def test_marginal_and_posterior_agree_with_the_steps():
    """Bayes: q(x_t|x_{t-1}) q(x_{t-1}|x_0) = q(x_{t-1}|x_t,x_0) q(x_t|x_0)."""
    model = Toy()
    x_0, a, b = torch.randn(3, 50, 1, dtype=torch.float64).unbind()
    for t in (2, 3):
        left = model.q_step(a, t).log_prob(b) + model.q_marginal(x_0, t - 1).log_prob(a)
        right = model.q_posterior(b, x_0, t).log_prob(a) + model.q_marginal(x_0, t).log_prob(b)
        torch.testing.assert_close(left, right)


def test_sampling_walks_the_decoder_with_one_draw_a_step():
    model = Toy()
    x = model.sample(5, generator=torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    noise = [torch.randn(5, 1, generator=g, dtype=torch.float64) for _ in range(3)]
    expected = 1.1 * noise[0]
    for step in noise[1:]:
        expected = 0.8 * expected + 0.1 + 0.7 * step
    torch.testing.assert_close(x, 0.95 * expected - 0.05)


@pytest.mark.parametrize("n", [1, 4])
def test_evidence_of_any_chain_is_the_bound_of_one_path(n):
    """As a chain has it whose marginals are not known."""
    x_0 = torch.randn(n, 1, dtype=torch.float64)
    found = MHVAE.evidence(Toy(), x_0, generator=torch.Generator().manual_seed(3))
    path = Toy().path_elbo(x_0, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found.total, -path)
    assert found.calls.tolist() == [3] * n
    assert (found.kind, found.dims) == ("bound", 1)


class NarrowAbove(Toy):
    """The same with a decoder that is the narrower of the two at levels 1 and 3."""

    def p_step(self, x_t, t, condition=None):
        return Normal(0.8 * x_t + 0.1, 0.5)

    def p_prior(self, shape):
        return Normal(torch.zeros(shape, dtype=torch.float64), 0.6)


@pytest.mark.parametrize(
    ("model", "expected"),
    [(Toy(), (0.4, 0.3**0.5, 0.2**0.5, 0.6**0.5)), (NarrowAbove(), (0.4, 0.5, 0.2**0.5, 0.6))],
)
def test_the_scale_of_a_level_is_that_of_the_narrower_chain(model, expected, generator):
    found = model.scales(torch.zeros(3, 1, dtype=torch.float64), generator=generator)
    assert found.tolist() == pytest.approx(expected)


def test_start_is_checked():
    with pytest.raises(NelboError, match="at least 1"):
        Toy().sample(0)
    with pytest.raises(NelboError, match=r"shape \(2, 3\), expected \(2, 1\)"):
        Toy().sample(2, x_T=torch.zeros(2, 3))
    with pytest.raises(NelboError, match=r"shape \(3, 1\), expected \(2, 1\)"):
        Toy().sample(2, x_T=torch.zeros(3, 1))
    with pytest.raises(NelboError, match="levels must be"):
        Toy().elbo(torch.zeros(1, 1), levels=0)
