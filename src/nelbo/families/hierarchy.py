r"""The lecture's Markovian hierarchical VAE with everything learned.

.. math::
    p(x, z_{1:T}) &= p(z_T)\, p(x|z_1) \prod_{t=2}^{T} p(z_{t-1}|z_t) \\
    q(z_{1:T}|x) &= q(z_1|x) \prod_{t=2}^{T} q(z_t|z_{t-1})

Latents are vectors; every step is a normal whose mean and scale are networks, :math:`p(z_T)` is
standard and p(x|z_1) a normal, of pixels rounded to their levels, whose scale is learned for each
value. With T = 1 it is a VAE. The bound by paths, importance weights and sampling are those of
`MHVAE`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Normal
from torch.nn.functional import silu

from nelbo.chain.conditioning import Condition
from nelbo.chain.data_space import DataSpace
from nelbo.chain.distributions import normal
from nelbo.chain.level import Level
from nelbo.chain.mhvae import MHVAE
from nelbo.families.convolution import ImageToVector, VectorToImage
from nelbo.families.rounding import least_variance

# The scale of p(x|z) at first, and that of a step between latents.
_FIRST_SCALE = 0.3
_FIRST_STEP = 0.5
# Bounds of the logarithm of every scale that a network gives.
_LOG_SCALES = (-7.0, 3.0)


class NormalStep(nn.Module):
    """z ↦ N(a z + f(z), s(z)²), which at first is a Gaussian step that keeps the variance at one.

    Args:
        latents: length of z.
        width: of the hidden layer.
    """

    def __init__(self, latents: int, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((latents,), math.sqrt(1 - _FIRST_STEP**2)))
        self.hidden = nn.Linear(latents, width)
        self.out = nn.Linear(width, 2 * latents)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Float[Tensor, "batch latents"]) -> Normal:
        """The distribution of the next latent."""
        shift, log_scale = self.out(silu(self.hidden(z))).chunk(2, 1)
        log_scale = (log_scale + math.log(_FIRST_STEP)).clamp(*_LOG_SCALES)
        return normal(self.gain * z + shift, log_scale.exp())


class Hierarchy(MHVAE):
    """T latents of one length, with learned Gaussian steps.

    Args:
        image_shape: (C, H, W).
        space: what the values of an image are.
        latents: length of each latent.
        levels: T.
        width: of the convolutions, and a quarter of that of the steps.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        space: DataSpace,
        latents: int,
        levels: int,
        width: int,
    ) -> None:
        super().__init__()
        self.num_levels = levels
        self.shape = (latents,)  # that of x_T
        self.data = space
        self.least_log_scale = 0.5 * math.log(least_variance(space))
        self.encoder = ImageToVector(image_shape, width, 2 * latents)
        self.decoder = VectorToImage(latents, image_shape, width)
        self.log_scale = nn.Parameter(torch.full(image_shape, math.log(_FIRST_SCALE)))
        # At [0] the step between z_1 and z_2.
        self.up = nn.ModuleList(NormalStep(latents, 4 * width) for _ in range(levels - 1))
        self.down = nn.ModuleList(NormalStep(latents, 4 * width) for _ in range(levels - 1))

    def check_data(self, x_0: Tensor) -> None:
        """Leave the check to the family: `shape` is that of x_T here."""

    def q_step(self, x_prev: Tensor, t: Level) -> Normal:
        """q(z_1 | x) for t = 1, q(z_t | z_{t−1}) above."""
        assert isinstance(t, int)
        if t > 1:
            return self.up[t - 2](x_prev)
        mean, log_scale = self.encoder(x_prev).chunk(2, 1)
        return normal(mean, log_scale.clamp(*_LOG_SCALES).exp())

    def p_prior(self, shape: tuple[int, ...]) -> Normal:
        """p(z_T), standard."""
        mean = self.log_scale.new_zeros(shape)
        return normal(mean, torch.ones_like(mean))

    def p_step(self, x_t: Tensor, t: Level, condition: Condition | None = None) -> Normal:
        """p(z_{t−1} | z_t)."""
        assert isinstance(t, int)
        return self.down[t - 2](x_t)

    def p_data(self, x_1: Tensor, condition: Condition | None = None) -> Distribution:
        """p(x | z_1)."""
        mean = self.decoder(x_1)
        scale = self.log_scale.clamp(min=self.least_log_scale).exp()
        return self.data.likelihood(mean, scale.expand_as(mean))
