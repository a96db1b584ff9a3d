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
(Vahdat et al. 2021, eq. 1). The entropy and the prior matching are known in closed form; each of
the other terms has draws of z_0 of its own, but for the two reconstructions, which share them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from nelbo.chain.bound import Bound, BoundSummary
from nelbo.chain.estimate import Estimate
from nelbo.chain.variances import variance_over_images


@dataclass(frozen=True, repr=False)
class LatentBoundSummary(BoundSummary):
    """Means over a dataset; `costs` and `in_bits` have the two more terms.

    A density may exceed one, so either of the two may be a negative cost.
    """

    entropy: Estimate
    latent_reconstruction: Estimate

    @property
    def floor_in_bits(self) -> Estimate:
        """What no prior can lower, bits per dimension: −E log p(x|z_0), of the autoencoder alone.

        The other terms add up to E KL(q(z_0|x) ‖ p(z_0)) at least, which is not negative.
        """
        return self.in_bits["reconstruction"]

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
        latent_reconstruction_variance: Monte Carlo variance of it, (B,).
        joint_variance: of the sum of both reconstructions, which share their draws of z_0, (B,).
    """

    entropy: Float[Tensor, " batch"]
    latent_reconstruction: Float[Tensor, " batch"]
    latent_reconstruction_variance: Float[Tensor, " batch"]
    joint_variance: Float[Tensor, " batch"]

    _first_means: ClassVar[tuple[str, ...]] = ("reconstruction", "latent_reconstruction")
    _first_variances: ClassVar[tuple[str, ...]] = (
        "reconstruction_variance",
        "latent_reconstruction_variance",
        "joint_variance",
    )

    @property
    def terms(self) -> dict[str, Float[Tensor, " batch"]]:
        """Each term as a cost, by name, nats; they add up to `total`."""
        chain = super().terms
        return {
            "reconstruction": chain.pop("reconstruction"),
            "entropy": -self.entropy,
            "latent_reconstruction": -self.latent_reconstruction,
            **chain,
        }

    @property
    def first_variance(self) -> Float[Tensor, " batch"]:
        """Monte Carlo variance of both reconstructions together, nats², (B,)."""
        return self.joint_variance

    @property
    def elbo(self) -> Float[Tensor, " batch"]:
        """The evidence lower bound of each image, nats."""
        return super().elbo + self.entropy + self.latent_reconstruction

    def mean(self) -> LatentBoundSummary:
        """Dataset means of every term with their standard errors."""
        summary = super().mean()
        return LatentBoundSummary(
            **vars(summary),
            entropy=Estimate.of(self.entropy, 0.0),
            latent_reconstruction=Estimate.of(
                self.latent_reconstruction,
                variance_over_images(self.latent_reconstruction_variance),
            ),
        )


@dataclass(frozen=True)
class LatentBoundMap:
    """Where in images and in their latents the nats go; both maps together sum to the bound.

    Attributes:
        nats: −log p(x|z_0) of each value of each image, (B, C, H, W).
        latent_nats: what each value of its latent costs, the sum of all other terms, (B, c, h, w).
            It may be negative, since the latents are paid for as densities.
        bound: the bound of the same draws, term by term.
    """

    nats: Float[Tensor, "batch channels height width"]
    latent_nats: Float[Tensor, "batch latent_channels latent_height latent_width"]
    bound: LatentBound

    @property
    def by_pixel(self) -> Float[Tensor, "batch height width"]:
        """The sum over channels, with what a latent costs spread evenly over its pixels."""
        height, width = self.nats.shape[2:]
        latent = self.latent_nats.sum(1)
        rows, columns = height // latent.shape[1], width // latent.shape[2]
        spread = latent.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
        return self.nats.sum(1) + spread / (rows * columns)
