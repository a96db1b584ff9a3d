r"""Linear-Gaussian models of pixels as hierarchical VAEs with one latent, along which they code.

.. math::
    q(z|x) = \prod_i N(m_i(x), s_i^2), \qquad
    P(x|z) = \prod_d P(\text{bin of } x_d \text{ under } N((Wz + \mu)_d, r_d))

with m the mean of the posterior and :math:`s_i^2` the inverse of its precision's diagonal: the
product of normals that is nearest to the posterior. Where the columns of :math:`R^{-1/2} W` are
orthogonal, that is the posterior itself. Those of a PPCA in closed form are; `rotated` makes those
of any model so, by the singular values :math:`R^{-1/2} W = U S V^\top` and the latents
:math:`V^\top z`, which are as normal as z.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from nelbo.chain.conditioning import Condition
from nelbo.chain.data_space import DataSpace
from nelbo.chain.distributions import normal
from nelbo.chain.level import Level
from nelbo.chain.mhvae import MHVAE

# Latents that explain less of the data than this are left out: they would cost draws for nothing.
_LEAST = 1e-4


class LinearChain(MHVAE):
    """x ← z of a linear-Gaussian model.

    Args:
        weight: W, (D, q).
        mean: μ, (D,).
        noise: r, (D,) or a scalar.
        image_shape: (C, H, W).
        space: what the values of an image are.
    """

    num_levels = 1

    def __init__(
        self,
        weight: Tensor,
        mean: Tensor,
        noise: Tensor,
        image_shape: tuple[int, int, int],
        space: DataSpace,
    ) -> None:
        super().__init__()
        self.weight, self.mean, self.noise = weight, mean, noise.expand_as(mean)
        self.image_shape, self.data, self.shape = image_shape, space, (weight.shape[1],)
        whitened = weight / self.noise[:, None]
        precision = weight.T @ whitened + torch.eye(weight.shape[1]).to(weight)
        self.gain = torch.linalg.solve(precision, whitened.T).T
        self.spread = precision.diagonal().rsqrt()

    @classmethod
    def rotated(
        cls,
        weight: Tensor,
        mean: Tensor,
        noise: Tensor,
        image_shape: tuple[int, int, int],
        space: DataSpace,
    ) -> Self:
        """The same model of x, with latents that are independent given x."""
        scale = noise.expand_as(mean).sqrt()[:, None]
        u, s, _ = torch.linalg.svd(weight / scale, full_matrices=False)
        kept = max(1, int((s > _LEAST).sum()))  # a chain has a latent, even if none explains data
        u, s = u[:, :kept], s[:kept]
        largest = u.gather(0, u.abs().argmax(0, keepdim=True))  # the sign is arbitrary
        return cls(scale * u * largest.sign() * s, mean, noise, image_shape, space)

    def q_step(self, x_prev: Tensor, t: Level) -> Normal:
        """q(z|x)."""
        mean = (x_prev.flatten(1).double() - self.mean) @ self.gain
        return normal(mean, self.spread.expand_as(mean))

    def p_prior(self, shape: tuple[int, ...]) -> Normal:
        """p(z), standard."""
        zeros = self.weight.new_zeros(shape)
        return normal(zeros, torch.ones_like(zeros))

    def p_step(self, x_t: Tensor, t: Level, condition: Condition | None = None) -> Normal:
        """There is no level above the first."""
        raise NotImplementedError

    def p_data(self, x_1: Tensor, condition: Condition | None = None) -> Distribution:
        """P(x|z)."""
        mean = (x_1.double() @ self.weight.T + self.mean).unflatten(1, self.image_shape)
        scale = self.noise.sqrt().unflatten(0, self.image_shape)
        return self.data.likelihood(mean, scale.expand_as(mean))
