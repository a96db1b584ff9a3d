r"""The bound of latent diffusion, term by term: one chain x ← z_0 ← z_1 … ← z_T.

.. math::
    \log p(x) \ge \mathrm{ELBO}
      = \underbrace{E_q[\log p(x|z_0)]}_{\text{reconstruction}}
      + \underbrace{H[q(z_0|x)]}_{\text{entropy}}
      + \underbrace{E_q[\log p(z_0|z_1)]}_{\text{latent reconstruction}}
      - \underbrace{E_q\, KL(q(z_T|z_0) \,\|\, p(z_T))}_{\text{prior matching}}
      - \sum_{t=2}^{T} \underbrace{E_q\, KL(q(z_{t-1}|z_t, z_0) \,\|\, p(z_{t-1}|z_t))}
        _{\text{score matching}}

The first term is a probability of pixels. The entropy and the latent reconstruction are densities
of the same latents, so their sum does not depend on the unit that latents are measured in
(Vahdat et al. 2021, eq. 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nelbo.bound import Bound, BoundSummary, Estimate


@dataclass(frozen=True)
class LatentBoundSummary(BoundSummary):
    """Means over a dataset; `costs` and `in_bits` have the two more terms.

    A density may exceed one, so either of the two may be a negative cost.
    """

    entropy: Estimate
    latent_reconstruction: Estimate

    @property
    def costs(self) -> dict[str, Estimate]:
        """Each term and the total as a cost in nats per example, by name."""
        chain = super().costs
        return {
            "reconstruction": chain.pop("reconstruction"),
            "entropy": self.entropy * -1.0,
            "latent_reconstruction": self.latent_reconstruction * -1.0,
            **chain,
        }


@dataclass(frozen=True, kw_only=True)
class LatentBound(Bound):
    r"""The bound of each image of a batch, by its terms, in nats; comparable with that of pixels.

    `prior_matching`, `score_matching`, `levels` (those of the prior's own chain, 2..T) and
    `weights` are as in `Bound`; `dims` counts the pixels' values, not the latents'.

    Attributes:
        reconstruction: :math:`E_q[\log p(x|z_0)]`, (B,).
        entropy: :math:`H[q(z_0|x)]`, (B,), of the latents that the prior is over.
        latent_reconstruction: :math:`E_q[\log p(z_0|z_1)]`, (B,), a density of the same latents.
    """

    entropy: Float[Tensor, " batch"]
    latent_reconstruction: Float[Tensor, " batch"]

    @property
    def elbo(self) -> Float[Tensor, " batch"]:
        """The evidence lower bound of each image, nats."""
        return super().elbo + self.entropy + self.latent_reconstruction

    def mean(self) -> LatentBoundSummary:
        """Dataset means of every term with their standard errors."""
        summary = super().mean()
        return LatentBoundSummary(
            **vars(summary),
            entropy=Estimate.of(self.entropy),
            latent_reconstruction=Estimate.of(self.latent_reconstruction),
        )
