"""Where to draw levels of a chain before anything was evaluated.

A level profile knows. Without one, data are taken for normal ones of unit variance: images are
easier to predict, but the shape over levels is close.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.chain.estimators import proposal_from
from nelbo.diffusion import Diffusion
from nelbo.evidence.reading_levels import unit_normal_costs


def profiled_square(chain: Diffusion | None) -> Float[Tensor, " levels"] | None:
    """E KL² at each level, (T+1,), from the level profile of this very chain; None without one."""
    profile = None if chain is None else chain.profile
    if chain is None or profile is None or profile.num_levels != chain.num_levels:
        return None
    square = profile.score_matching_square
    # A profile of variances alone has no costs.
    return square if bool(square[2:].isfinite().all()) else None


def first_guess(chain: Diffusion | None) -> Float[Tensor, " candidates"]:
    """A probability of each of the levels 2..T, (T−1,); empty without such levels."""
    if chain is None or chain.num_levels < 2:
        return torch.empty(0, dtype=torch.float64)
    square = profiled_square(chain)
    if square is None:
        square = unit_normal_costs(chain.schedule).square()
    return proposal_from(square)
