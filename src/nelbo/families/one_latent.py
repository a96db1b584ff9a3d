"""The bound of a hierarchical VAE with one latent: a VAE's."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.chain.bound import Bound


def bound_of_one_latent(
    reconstruction: Float[Tensor, " batch"],
    kl: Float[Tensor, " batch"],
    dims: int,
    variance: Float[Tensor, " batch"] | None = None,
    draws: int = 1,
) -> Bound:
    """The bound with T = 1, in which no level lies between the latent and the data.

    Args:
        reconstruction: E_q[log p(x|z)], nats.
        kl: KL(q(z|x) || p(z)), nats.
        dims: number of dimensions of one example.
        variance: Monte Carlo variance of the reconstruction, nats²; None where it is exact.
        draws: how many draws of z the reconstruction is the mean of.
    """
    none = reconstruction.new_zeros(len(reconstruction), 0)
    return Bound(
        reconstruction=reconstruction,
        prior_matching=kl,
        score_matching=none,
        levels=none.long(),
        weights=none,
        dims=dims,
        reconstruction_variance=torch.zeros_like(kl) if variance is None else variance,
        reconstruction_calls=torch.full_like(kl, draws, dtype=torch.int64),
    )
