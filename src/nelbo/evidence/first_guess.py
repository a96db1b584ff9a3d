r"""Where to draw levels of a chain before anything was evaluated.

A level profile knows. Without one, take data for white noise of unit variance, of which the best
prediction has the error :math:`E(x_0 - \hat x_0)^2 = 1 / (1 + \mathrm{SNR}(t))`, so that

.. math::
    E\,KL_t \propto \frac{\mathrm{SNR}(t-1) - \mathrm{SNR}(t)}{1 + \mathrm{SNR}(t)},

where :math:`KL_t = \tfrac12 (\mathrm{SNR}(t-1) - \mathrm{SNR}(t)) \|x_0 - \hat x_0\|^2` (Kingma et
al. 2021, eq. 14). Images are easier to predict, but the shape over levels is close.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.chain.estimators import proposal_from
from nelbo.diffusion import Diffusion


def first_guess(chain: Diffusion | None) -> Float[Tensor, " candidates"]:
    """A probability of each of the levels 2..T, (T−1,); empty without such levels."""
    if chain is None or chain.num_levels < 2:
        return torch.empty(0, dtype=torch.float64)
    profile = chain.profile
    if profile is not None and profile.num_levels == chain.num_levels:
        square = profile.score_matching_square
        if square[2:].isfinite().all():  # a profile of variances alone has no costs
            return proposal_from(square)
    snr = chain.schedule.snr.double()
    cost = torch.zeros_like(snr)
    cost[2:] = (snr[1:-1] - snr[2:]).clamp(min=0) / (1 + snr[2:])
    return proposal_from(cost.square())
