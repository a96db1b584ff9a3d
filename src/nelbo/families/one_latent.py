"""The bound of a hierarchical VAE with one latent: a VAE's."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from nelbo.chain.bound import Bound


def bound_of_one_latent(
    reconstruction: Float[Tensor, " batch"], kl: Float[Tensor, " batch"], dims: int
) -> Bound:
    """The bound with T = 1, in which no level lies between the latent and the data.

    Args:
        reconstruction: E_q[log p(x|z)], nats.
        kl: KL(q(z|x) || p(z)), nats.
        dims: number of dimensions of one example.
    """
    none = reconstruction.new_zeros(len(reconstruction), 0)
    return Bound(
        reconstruction=reconstruction,
        prior_matching=kl,
        score_matching=none,
        levels=none.long(),
        weights=none,
        dims=dims,
    )
