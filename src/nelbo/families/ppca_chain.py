r"""PPCA of pixels as a hierarchical VAE with one latent, along which it codes.

.. math::
    q(z|x) = \prod_i N(m_i(x), \sigma^2 / M_{ii}), \qquad
    P(x|z) = \prod_d P(\text{bin of } x_d \text{ under } N((Wz + \mu)_d, \sigma^2))

with m the mean of the posterior and M of `nelbo.families.ppca`: the product of normals that is
nearest to the posterior, which it is itself in the closed form, where M is diagonal.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from nelbo.chain.conditioning import Condition
from nelbo.chain.data_space import DataSpace
from nelbo.chain.distributions import normal
from nelbo.chain.mhvae import MHVAE, Level
from nelbo.families.linear_gaussian import LinearGaussian, posterior


class LinearChain(MHVAE):
    """x ← z of a linear-Gaussian model.

    Args:
        p: its parameters.
        image_shape: (C, H, W).
        space: what the values of an image are.
    """

    num_levels = 1

    def __init__(
        self, p: LinearGaussian, image_shape: tuple[int, int, int], space: DataSpace
    ) -> None:
        super().__init__()
        self.p, self.image_shape, self.data = p, image_shape, space
        self.shape = (p.weight.shape[1],)

    def q_step(self, x_prev: Tensor, t: Level) -> Normal:
        """q(z|x)."""
        q = posterior(self.p, x_prev.flatten(1).double())
        precision = torch.linalg.inv(q.covariance).diagonal(dim1=1, dim2=2)
        return normal(q.mean, precision.rsqrt().expand_as(q.mean))

    def p_prior(self, shape: tuple[int, ...]) -> Normal:
        """p(z), standard."""
        zeros = self.p.weight.new_zeros(shape)
        return normal(zeros, torch.ones_like(zeros))

    def p_step(self, x_t: Tensor, t: Level, condition: Condition | None = None) -> Normal:
        """There is no level above the first."""
        raise NotImplementedError

    def p_data(self, x_1: Tensor, condition: Condition | None = None) -> Distribution:
        """P(x|z)."""
        mean = (x_1.double() @ self.p.weight.T + self.p.mean).unflatten(1, self.image_shape)
        return self.data.likelihood(mean, self.p.variance.sqrt().expand_as(mean))
