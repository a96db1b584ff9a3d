r"""The encoder of a diffusion model: linear, Gaussian, and fixed by its schedule.

.. math::
    q(x_t|x_{t-1}) = N(\sqrt{\alpha_t}\, x_{t-1}, \beta_t I), \qquad
    q(x_t|x_0) = N(\sqrt{\bar\alpha_t}\, x_0, (1 - \bar\alpha_t) I), \qquad
    p(x_T) = N(0, I)

It has nothing to learn, and ends near the prior. See `nelbo.diffusion.schedule`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from nelbo.base.arguments import check_count, check_kind
from nelbo.chain.distributions import normal
from nelbo.chain.examples import check_examples
from nelbo.chain.level import Level, check_level
from nelbo.chain.mhvae import TractableMHVAE
from nelbo.diffusion.coefficients import Coefficients
from nelbo.diffusion.schedule import NoiseSchedule


class GaussianEncoder(TractableMHVAE):
    """A chain whose encoder follows a noise schedule; subclasses define its decoder.

    Args:
        schedule: the noise levels 0..T.

    Attributes:
        coefficients: those of its formulas, by level.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.num_levels = schedule.num_levels
        self.coefficients = Coefficients(schedule)

    def q_step(self, x_prev: Tensor, t: Level) -> Normal:
        """The forward step q(x_t|x_{t-1}) = N(√α_t x_{t-1}, β_t)."""
        check_examples(x_prev=x_prev)
        check_level(t, self.num_levels, x_prev)
        at = self.coefficients
        return normal(at.step_scale(t, x_prev) * x_prev, at.step_noise(t, x_prev))

    def q_marginal(self, x_0: Tensor, t: Level) -> Normal:
        """The forward marginal q(x_t|x_0) = N(√ᾱ_t x_0, 1 − ᾱ_t)."""
        check_examples(x_0=x_0)
        check_level(t, self.num_levels, x_0, least=0)
        at = self.coefficients
        return normal(at.signal_scale(t, x_0) * x_0, at.noise_scale(t, x_0))

    def q_posterior(self, x_t: Tensor, x_0: Tensor, t: Level) -> Normal:
        """The posterior q(x_{t-1}|x_t, x_0), 2 ≤ t ≤ T (Ho et al. 2020, eqs. 6, 7)."""
        check_examples(x_t=x_t, x_0=x_0)
        check_level(t, self.num_levels, x_t)
        mean = self.posterior_mean(x_t, x_0, t)
        return normal(mean, self.coefficients.posterior_stddev(t, x_t))

    def posterior_mean(self, x_t: Tensor, x_0: Tensor, t: Level) -> Tensor:
        """The mean of q(x_{t-1}|x_t, x_0), a weighted sum of both; at t = 1 x_0 itself."""
        at = self.coefficients
        return at.data_weight(t, x_t) * x_0 + at.latent_weight(t, x_t) * x_t

    def diffuse(self, x_0: Tensor, noise: Tensor, t: Level) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) noise."""
        at = self.coefficients
        return at.signal_scale(t, x_0) * x_0 + at.noise_scale(t, x_0) * noise

    def p_prior(self, shape: Sequence[int]) -> Normal:
        """The prior p(x_T) = N(0, I), on the device of the network."""
        check_kind("shape", shape, Sequence, "the sides of a batch, such as (16, 3, 32, 32)")
        for side in shape:
            check_count("each side of shape", side, least=0)
        parameter = next(self.parameters(), torch.empty(0))
        zeros = torch.zeros(tuple(shape), dtype=parameter.dtype, device=parameter.device)
        return normal(zeros, torch.ones_like(zeros))

    def prior_matching_map(self, x_0: Tensor) -> Float[Tensor, "batch ..."]:
        """KL(N(√ᾱ_T x_0, 1 − ᾱ_T) || N(0, 1)) of each value, nats, (B, ...)."""
        signal = self.schedule.alphas_cumprod[-1]
        excess = float(-signal - torch.log1p(-signal))
        wide = x_0.to(torch.promote_types(x_0.dtype, torch.float32))
        return 0.5 * (float(signal) * wide.square() + excess)
