"""A cheap reading of the bound while training: the same images, levels and noise every time."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.chain.estimators import Estimator, Importance, proposal_from
from nelbo.chain.evidence import joined
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.diffusion import Diffusion, NoiseSchedule
from nelbo.evidence.evaluation import evaluate

IMAGES = 64
LEVELS = 8


class Validation:
    """Reads the bound of a few validation images.

    All models of a comparison meet the same levels and noise, so that differences between readings
    are those between models; their common error, of few images and levels, stays.

    Args:
        data: the validation images; the first of them in an order that the seed decides are used.
        seed: source of the noise.
    """

    def __init__(self, data: ImageData, seed: int = 0) -> None:
        self.data = data.subset(IMAGES, seed)
        self.seed = seed

    def __call__(self, model: Model) -> float:
        """The mean negative bound, bits per dimension."""
        return self.each(model).mean().item()

    def each(self, model: Model, images: int = IMAGES) -> Float[Tensor, " images"]:
        """The negative bound of each of the first images, bits per dimension, float64."""
        generator = torch.Generator().manual_seed(self.seed)
        bounds = evaluate(
            model, self.data.take(slice(images)), levels=_levels(model), generator=generator
        )
        return joined(bounds).bits_per_dim.double()


def _levels(model: Model) -> int | Estimator | None:
    """Which levels to read: of a density, those where a normal of unit variance costs most.

    These costs are far from even, and uniform levels would read little but chance.
    """
    chain: Diffusion = model.chain
    if chain.num_levels - 1 <= LEVELS:
        return None
    if not chain.data.is_density:
        return LEVELS
    return Importance(LEVELS, proposal_from(unit_normal_costs(chain.schedule).square()))


def unit_normal_costs(schedule: NoiseSchedule) -> Float[Tensor, " levels"]:
    r"""The KL at each level, up to a factor, of x_0 ~ N(0, 1) and its best prediction, (T+1,).

    With fixed variances it is :math:`\tfrac12 (\mathrm{SNR}_{t-1} - \mathrm{SNR}_t)
    E (x_0 - \hat x_0)^2` (Kingma et al. 2021, eq. 14), and the error of the best prediction of a
    unit normal is :math:`1 / (1 + \mathrm{SNR}_t)`. Levels 0 and 1 have none.
    """
    snr = schedule.snr
    costs = torch.zeros_like(snr)
    costs[2:] = 0.5 * (snr[1:-1] - snr[2:]) / (1 + snr[2:])
    return costs
