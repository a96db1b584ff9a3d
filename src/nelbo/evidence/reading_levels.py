"""Which levels of a chain to read a bound at, where a few are to do."""

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
