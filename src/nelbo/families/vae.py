r"""A convolutional variational autoencoder (Kingma & Welling 2014), an MHVAE with T = 1.

.. math::
    \log p(x) \ge E_{q(z|x)}[\log p(x|z)] - KL(q(z|x) \| p(z)), \qquad
    q(z|x) = N(\mu(x), \mathrm{diag}\,\sigma^2(x)), \quad p(z) = N(0, I)

p(x|z) is a normal around the decoder's image, rounded to pixel levels, whose scale is learned for
each value (Rybkin et al. 2021). Training minimises

.. math::
    -E_q[\log p(x|z)] + \beta \sum_j \max(\lambda, KL_j)

with β of Higgins et al. (2017) and :math:`KL_j` the mean over a batch of the KL of latent j, which
is free up to λ nats (Kingma et al. 2016). Its evidence is the bound itself whatever β and λ.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from nelbo.chain.bound import Bound
from nelbo.chain.data_space import DataSpace
from nelbo.chain.distributions import draw
from nelbo.chain.terms import per_example
from nelbo.chain.variances import variance_of_mean
from nelbo.families.arguments import check_not_negative, check_positive
from nelbo.families.one_latent import bound_of_one_latent
from nelbo.families.variational import DRAWS, VariationalFamily


class VAE(VariationalFamily):
    """A convolutional VAE; its evidence is a bound, with a Monte Carlo error.

    Args:
        latents: length of z.
        width: channels of the convolutions, a multiple of 8.
        beta: β, the weight of the KL in training.
        free_bits: λ, nats of each latent that cost nothing in training.
        data: what the values of a tensor are; see `Family.fit`.
    """

    def __init__(
        self,
        latents: int = 16,
        *,
        width: int = 32,
        beta: float = 1.0,
        free_bits: float = 0.0,
        data: DataSpace | None = None,
    ) -> None:
        super().__init__(latents, width, data, beta=beta, free_bits=free_bits)
        check_positive(beta=beta)
        check_not_negative(free_bits=free_bits)
        self.beta, self.free_bits = beta, free_bits

    def encoder(self, x: Float[Tensor, "batch channels height width"]) -> Normal:
        """q(z|x), (B, latents)."""
        self.check_shape(x)
        return self.hierarchy.q_step(x, 1)

    def one_draw(self, x: Tensor, generator: torch.Generator | None) -> Float[Tensor, " batch"]:
        """The negative bound by one draw of z, its KL in closed form."""
        q = self.encoder(x)
        return per_example(self._kl(q)) - self._reconstruction(x, q, generator)

    def loss(self, x: Tensor, generator: torch.Generator | None) -> Float[Tensor, " batch"]:
        """−E_q[log p(x|z)] + β Σ_j max(λ, KL_j), the second part that of the batch."""
        q = self.encoder(x)
        paid = self._kl(q).mean(0).clamp(min=self.free_bits).sum()
        return self.beta * paid - self._reconstruction(x, q, generator)

    def costs(self, x_0: Tensor, generator: torch.Generator | None) -> Bound:
        """The bound, its reconstruction the mean over `DRAWS` draws of z."""
        q = self.encoder(x_0)
        drawn = torch.stack([self._reconstruction(x_0, q, generator) for _ in range(DRAWS)], 1)
        kl = per_example(self._kl(q))
        return bound_of_one_latent(
            drawn.mean(1), kl, self.dims, variance_of_mean(drawn.detach()), DRAWS
        )

    def _kl(self, q: Normal) -> Float[Tensor, "batch latents"]:
        """The KL of each latent from the prior."""
        return kl_divergence(q, self.hierarchy.p_prior(tuple(q.mean.shape)))

    def _reconstruction(
        self, x: Tensor, q: Normal, generator: torch.Generator | None
    ) -> Float[Tensor, " batch"]:
        return per_example(self.hierarchy.p_data(draw(q, generator)).log_prob(x))
