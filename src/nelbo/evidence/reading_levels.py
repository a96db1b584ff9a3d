"""Which levels of a chain to read a bound at, before anything was evaluated.

A level profile knows. Without one, data are taken for normal ones of unit variance: images are
easier to predict, but the shape over levels is close.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.chain.estimators import Estimator, Importance, proposal_from
from nelbo.chain.model import Model
from nelbo.diffusion import Diffusion, NoiseSchedule


def levels_to_read(model: Model, count: int) -> int | Estimator | None:
    """About `count` levels an image: of a density, those where a normal of unit variance costs
    most; all of a chain that has no more.

    The costs of a density are far from even, and uniform levels would read little but chance.
    """
    chain: Diffusion = model.chain
    if chain.num_levels - 1 <= count:
        return None
    if not chain.data.is_density:
        return count
    return Importance(count, proposal_from(unit_normal_costs(chain.schedule).square()))


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


def unit_normal_costs(schedule: NoiseSchedule) -> Float[Tensor, " levels"]:
    r"""The KL at each level, up to a factor, of x_0 ~ N(0, 1) and its best prediction, (T+1,).

    With fixed variances it is :math:`\tfrac12 (\mathrm{SNR}_{t-1} - \mathrm{SNR}_t)
    E (x_0 - \hat x_0)^2` (Kingma et al. 2021, eq. 14), and the error of the best prediction of a
    unit normal is :math:`1 / (1 + \mathrm{SNR}_t)`. Levels 0 and 1 have none.
    """
    snr = schedule.snr.double()
    costs = torch.zeros_like(snr)
    costs[2:] = 0.5 * (snr[1:-1] - snr[2:]).clamp(min=0) / (1 + snr[2:])
    return costs
