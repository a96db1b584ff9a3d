r"""What a density of real numbers is worth as a probability of pixels.

A linear-Gaussian model has x = m(z) + noise, noise of variance r a value and independent between
values, so that a pixel that is rounded to its level has, given z, the probability of its bin
under :math:`N(m_d(z), r_d)`. With the exact posterior q(z|x) of the density at the centres of the
bins,

.. math::
    \log P(x) \ge \sum_d E_{q}[\log P(x_d|z)] - KL(q(z|x) \| p(z)), \qquad
    KL = \sum_d E_q[\log p(x_d|z)] - \log p(x).

Under q each :math:`m_d(z)` is normal in one dimension, so that both expectations are, by
Gauss-Hermite quadrature and in closed form, free of Monte Carlo noise. The bound is above that of
uniform dequantisation where bins at the edges, open to ∓∞, matter, as for drawings on a plain
ground.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.chain.data_space import DataSpace
from nelbo.chain.distributions import DiscretizedNormal, nearest_level
from nelbo.chain.evidence import Costs

# q is no wider than the noise, so that the logarithm of a bin is smooth over it.
_NODES = 12
# The least variance of a density: of pixels a quarter of a half bin, which has all of the
# probability of a value that is always the same; of real numbers next to nothing.
_LEAST_OF_HALF_BIN = 0.25
_LEAST_VARIANCE = 1e-8


def least_variance(space: DataSpace) -> float:
    """What the variance of noise is kept above, so that constant pixels have a finite density."""
    if space.is_density:
        return _LEAST_VARIANCE
    return (_LEAST_OF_HALF_BIN / (space.shown_levels - 1)) ** 2


def expected_log_bin(
    x: Float[Tensor, "batch ..."],
    mean: Float[Tensor, "batch ..."],
    variance: Float[Tensor, "..."],
    noise: Float[Tensor, "..."],
    levels: int,
) -> Float[Tensor, "batch ..."]:
    """E[log P(x_d | m_d)] with m_d normal, and P the bin of x_d under N(m_d, noise); nats.

    Args:
        x: pixels in network space.
        mean: of m_d.
        variance: of m_d, broadcast against `mean`.
        noise: variance of the noise of each value, broadcast likewise.
        levels: pixel levels.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    total = torch.zeros_like(mean)
    for node, weight in zip(nodes, weights / math.sqrt(2 * math.pi), strict=True):
        at_node = mean + float(node) * variance.sqrt()
        total += float(weight) * DiscretizedNormal(at_node, noise.sqrt(), levels).log_prob(x)
    return total


def expected_log_density(
    x: Tensor, mean: Tensor, variance: Tensor, noise: Tensor
) -> Float[Tensor, "batch ..."]:
    """E[log N(x_d; m_d, noise)] with m_d normal, in nats; arguments as `expected_log_bin`."""
    return -0.5 * (((x - mean).square() + variance) / noise + (2 * math.pi * noise).log())


def pixel_bound(
    x: Float[Tensor, "batch ..."],
    log_density: Float[Tensor, " batch"],
    mean: Float[Tensor, "batch ..."],
    variance: Float[Tensor, "..."],
    noise: Float[Tensor, "..."],
    levels: int,
) -> Costs:
    """The bound on log P(x) of pixels from a linear-Gaussian density at their centres.

    Args:
        x: pixels in network space.
        log_density: log p(x), nats.
        mean: of the noiseless m_d(z) under q(z|x).
        variance: of the same, broadcast against `mean`.
        noise: variance of the noise of each value, broadcast likewise.
        levels: pixel levels.
    """
    reconstruction = expected_log_bin(x, mean, variance, noise, levels).flatten(1).sum(1)
    density = expected_log_density(x, mean, variance, noise).flatten(1).sum(1)
    terms = {"reconstruction": -reconstruction, "prior_matching": density - log_density}
    certain = torch.zeros_like(log_density)
    return replace(Costs.of("bound", terms, x), variance=certain)


def nearest_pixels(x: Tensor, space: DataSpace) -> Tensor:
    """Draws of a density as data: of pixels the nearest levels, of real numbers as they are."""
    return x if space.is_density else nearest_level(x, space.shown_levels)
