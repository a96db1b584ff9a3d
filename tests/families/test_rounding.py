"""The bound on pixels of a density, against integrals on a fine grid and the KL of torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from nelbo import Continuous, Pixels
from nelbo.chain.distributions import DiscretizedNormal
from nelbo.families import PPCA
from nelbo.families.rounding import expected_log_bin, least_variance

HALF_BIN = 1 / 16  # of 17 levels


def on_a_grid(x: float, mean: float, variance: float, noise: float) -> float:
    """E[log P(bin of x)] by the trapezoidal rule, ten standard deviations each way."""
    t = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    scale = torch.tensor(noise, dtype=torch.float64).sqrt()
    log_p = DiscretizedNormal(mean + t * math.sqrt(variance), scale, 17).log_prob(x + 0 * t)
    density = torch.distributions.Normal(0.0, 1.0).log_prob(t).exp()
    return torch.trapezoid(density * log_p, t).item()


@pytest.mark.parametrize("scale", [HALF_BIN / 4, HALF_BIN, 0.5])
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_the_expected_bin_is_the_integral(scale, share):
    """Of noise down to the least that there is, and posteriors up to the widest, its own."""
    cases = [(x, x + off) for x in (-1.0, 0.0, 1.0) for off in (0.0, HALF_BIN, 0.3, -0.3)]
    x, mean = torch.tensor(cases, dtype=torch.float64).unbind(1)
    noise = torch.tensor(scale**2, dtype=torch.float64)
    found = expected_log_bin(x, mean, share * noise, noise, 17)
    expected = [on_a_grid(*case, share * scale**2, scale**2) for case in cases]
    assert found.tolist() == pytest.approx(expected, abs=1e-6, rel=1e-7)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_least_deviation_is_a_quarter_of_half_a_bin(levels):
    """Of a value at the middle of its bin, which reaches four deviations to each side."""
    half_bin = 0.5 * 2 / (levels - 1)
    assert least_variance(Pixels(levels)) == pytest.approx((half_bin / 4) ** 2)
    assert 0 < least_variance(Continuous()) < least_variance(Pixels(256)) / 20


def test_the_terms_are_those_of_the_posterior():
    levels = torch.randint(0, 5, (40, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    levels[:, 0, 1] = levels[:, 0, 0]
    x = Pixels(5).to_network(levels)
    model = PPCA(2).fit(x, data=Pixels(5), device="cpu")
    terms, q = model.evidence(x).terms, model.encoder(x)
    prior = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    torch.testing.assert_close(terms["prior_matching"], kl_divergence(q, prior))
    # The probability of the pixels themselves, in the mean over draws of the posterior.
    torch.manual_seed(0)
    p = model.decoder(q.sample((4000,)).flatten(0, 1))
    log_p = DiscretizedNormal(p.mean, p.stddev, 5).log_prob(x.repeat(4000, 1, 1, 1))
    drawn = log_p.flatten(1).sum(1).view(4000, -1)
    error = drawn.std(0) / math.sqrt(4000)
    assert ((drawn.mean(0) + terms["reconstruction"]).abs() < 4.5 * error).all()
