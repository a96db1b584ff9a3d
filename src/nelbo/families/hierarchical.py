r"""A hierarchical VAE: the `Hierarchy` with T latents, trained by its bound on paths.

.. math::
    \log p(x) \ge E_{q(z_{1:T}|x)}\left[\log \frac{p(x, z_{1:T})}{q(z_{1:T}|x)}\right]

The posterior q(z_{t−1}|z_t, x) of a learned encoder has no closed form, so the theorem's split into
terms does not apply, and the bound is read from whole paths (docs/path-and-terms.md).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.chain.data_space import DataSpace
from nelbo.chain.evidence import Costs, Evidence
from nelbo.chain.variances import variance_of_mean
from nelbo.families.variational import DRAWS, VariationalFamily


class HierarchicalVAE(VariationalFamily):
    """A VAE with T latents in a chain; its evidence is a bound, with a Monte Carlo error.

    Args:
        latents: length of each latent.
        levels: T.
        width: channels of the convolutions, a multiple of 8.
        data: what the values of a tensor are; see `Family.fit`.
    """

    def __init__(
        self,
        latents: int = 16,
        *,
        levels: int = 3,
        width: int = 32,
        data: DataSpace | None = None,
    ) -> None:
        super().__init__(latents, width, data, levels=levels)

    def one_draw(self, x: Tensor, generator: torch.Generator | None) -> Float[Tensor, " batch"]:
        """The negative bound by one path."""
        return -self.hierarchy.path_elbo(x, generator=generator)

    def costs(self, x_0: Tensor, generator: torch.Generator | None) -> Evidence:
        """The negative bound, the mean over `DRAWS` paths."""
        drawn = torch.stack([self.one_draw(x_0, generator) for _ in range(DRAWS)], 1)
        found = Costs.of("bound", {"path": drawn.mean(1)}, x_0)
        variance = variance_of_mean(drawn.detach())
        return replace(found, calls=DRAWS * found.calls, variance=variance)
