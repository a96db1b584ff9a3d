r"""What coding coarse to fine costs and loses at every level, measured and by the bound's terms.

Where the walk of `nelbo.coding.progressive` has reached x_t, it has written some bits, and the
picture that is finished from there has some PSNR. In theory the rate is that of the terms of the
bound above t, :math:`\mathrm{KL}(q(x_T|x_0) \| p(x_T)) + \sum_{s>t} \mathrm{KL}_s`, and x_t is an
exact draw of :math:`q(x_t|x_0)` (Ho et al. 2020, section 4.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.chain.distributions import draw
from nelbo.chain.estimate import Estimate
from nelbo.chain.model import Model
from nelbo.coding.bits import Bits
from nelbo.coding.progressive import chain_of, condition_of, finished, walk


@dataclass(frozen=True)
class Curve:
    """Rate and distortion at levels T, ..., 1, over some pictures.

    Attributes:
        bytes: of a picture.
        psnr: of what is decoded, dB.
    """

    bytes: list[Estimate]
    psnr: list[Estimate]


@dataclass(frozen=True)
class RateDistortion:
    """What was measured, what the bound's terms say, and of how many pictures.

    Attributes:
        measured: the bytes that were written.
        theory: what the terms of the bound take, and exact draws lose.
        coded: the bytes of the KLs that were coded, whose draws are not exact.
        pictures: how many there are.
    """

    measured: Curve
    theory: Curve
    coded: list[Estimate]
    pictures: int


@torch.no_grad()
def rate_distortion(
    model: Model,
    images: Tensor,
    *,
    steps: int | None = None,
    generator: torch.Generator | None = None,
) -> RateDistortion:
    """Code pictures coarse to fine and finish each from every level.

    Args:
        model: as `compress_progressive`.
        images: pixel levels (N, C, H, W).
        steps: likewise.
        generator: of the exact draws.

    Raises:
        NelboError: a model without a chain, or pictures that are not of its size.
    """
    chain, n = chain_of(model, steps), len(images)
    one, all_of = condition_of(model, None), model.condition_for(n)
    x = model.data.to_network(images).to(model.device)
    model.check_data(x)
    x_0, T = model.encode(x).mean, chain.num_levels
    rates = {t: torch.zeros(n) for t in range(1, T + 1)}
    terms = {t: torch.zeros(n) for t in rates}
    states = {t: torch.zeros_like(x_0) for t in rates}
    for i in range(n):
        content, coded = Bits(), 0.0
        for x_t, t, bits in walk(chain, content, one, x_0[i : i + 1]):
            coded += bits
            rates[t][i], terms[t][i], states[t][i] = len(content.bits), coded, x_t[0]

    def psnr(state: Tensor, t: int) -> Tensor:
        back = model.data.to_levels(model.decode(finished(chain, state, t, all_of)))
        return psnr_of(back, images, model.data.shown_levels)

    nats = chain.prior_matching(x_0).cpu()
    found: list[list[Estimate]] = [[], [], [], [], []]
    for t in range(T, 0, -1):
        x_t = draw(chain.q_marginal(x_0, t), generator)
        measured = rates[t] / 8, psnr(states[t], t)
        rows = (*measured, nats / (8 * math.log(2)), psnr(x_t, t), terms[t] / 8)
        for each, values in zip(found, rows, strict=True):
            each.append(Estimate.of(values.double()))
        if t > 1:
            nats = nats + chain.score_matching(x_0, x_t, t, all_of).cpu()
    return RateDistortion(Curve(*found[:2]), Curve(*found[2:4]), found[4], n)


def psnr_of(back: Tensor, images: Tensor, levels: int) -> Tensor:
    """PSNR of each picture, dB, (N,); an error below 0.001 square levels counts as that."""
    error = (back.cpu().double() - images.cpu().double()).square().flatten(1).mean(1)
    return 10 * ((levels - 1) ** 2 / error.clamp(min=1e-3)).log10()
