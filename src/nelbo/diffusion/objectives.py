r"""What training minimises, from one network call on one level an example.

With :math:`L_1 = -\log p(x_0|x_1)`, :math:`L_t` the score matching term at t ≥ 2 and
:math:`\pi` any distribution over levels, the negative bound is

.. math::
    \mathrm{NELBO} = KL(q(x_T|x_0) \| p(x_T)) + E_{t \sim \pi}[L_t / \pi(t)].

The objectives are

* ``simple``: the mean squared error of what the network predicts, levels uniform over 1..T
  (Ho et al. 2020, eq. 14);
* ``hybrid``: simple + λ · bound in bits per dimension, λ = 0.001, where the bound sees the
  prediction detached, so that it teaches only a learned variance (Nichol & Dhariwal 2021, eq. 16);
* ``bound``: the negative bound itself, nats per example. Level 1 carries far more of it than any
  other level, so it is drawn with probability 0.1, the others uniformly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.conditioning import Condition
from nelbo.distributions import randn_like
from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.diffusion.model import Diffusion

OBJECTIVES = ("simple", "hybrid", "bound")
HYBRID_WEIGHT = 1e-3
FIRST_LEVEL_SHARE = 0.1


class TrainingTerms(NamedTuple):
    """One training batch: what to minimise, and a reading of the bound beside it.

    Attributes:
        loss: the objective, scalar.
        nelbo: an unbiased estimate of each example's negative bound from its one level, nats, (B,)
            without gradient.
        levels: the level of each example, (B,).
    """

    loss: Tensor
    nelbo: Float[Tensor, " batch"]
    levels: Int[Tensor, " batch"]


class BatchPart(NamedTuple):
    """Examples start..stop−1 of a batch of `batch`, which others compute the rest of.

    Levels and noise are drawn for the whole batch and then cut, so that the parts of a batch see
    the draws of the batch, however many parts there are.
    """

    start: int
    stop: int
    batch: int

    @property
    def slice(self) -> slice:
        """Where in the batch."""
        return slice(self.start, self.stop)


def training_terms(
    model: Diffusion,
    x_0: Float[Tensor, "batch ..."],
    condition: Condition | None,
    *,
    objective: str,
    generator: torch.Generator | None,
    part: BatchPart | None = None,
) -> TrainingTerms:
    """The objective of a batch, or of the part of it that `x_0` is, each example at one level.

    Raises:
        NelboError: an unknown objective.
    """
    if objective not in OBJECTIVES:
        raise NelboError(f"unknown objective {objective!r}: expected one of {OBJECTIVES}")
    T = model.num_levels
    first_share = FIRST_LEVEL_SHARE if objective == "bound" else 1 / T
    whole = part or BatchPart(0, len(x_0), len(x_0))
    t, weight = draw_levels(whole.batch, T, first_share, generator, x_0.device)
    noise = part_of_noise(x_0, part, generator)
    t, weight = t[whole.slice], weight[whole.slice]
    x_t = model.diffuse(x_0, noise, t)
    prediction = model.predict(x_t, t, condition)

    seen = prediction if objective == "bound" else prediction.detach_mean()
    with torch.set_grad_enabled(objective != "simple" and torch.is_grad_enabled()):
        nelbo = weight * model.level_term(seen, x_0, t) + model.prior_matching(x_0)
    if objective == "bound":
        return TrainingTerms(nelbo.mean(), nelbo.detach(), t)
    loss = (prediction.output - prediction.target(x_0, noise)).square().mean()
    if objective == "hybrid":
        loss = loss + HYBRID_WEIGHT * nelbo.mean() / (x_0[0].numel() * math.log(2.0))
    return TrainingTerms(loss, nelbo.detach(), t)


def part_of_noise(
    like: Float[Tensor, "part ..."],
    part: BatchPart | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "part ..."]:
    """Standard normal noise for a part of a batch, cut from that of the whole batch."""
    if part is None:
        return randn_like(like, generator)
    batch = like.new_empty(()).expand(part.batch, *like.shape[1:])
    return randn_like(batch, generator)[part.slice]


def draw_levels(
    batch: int,
    T: int,
    first_share: float,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """A level for each example and its weight 1/π(t): level 1 with probability `first_share`.

    The other levels are equally likely. One uniform draw shifts a regular grid over all of them
    (Kingma et al. 2021, appendix I.1), which takes most of the variance out of a batch's loss.
    """
    if T == 1:
        first_share = 1.0
    source = generator.device if generator is not None else device
    shift = torch.rand((), generator=generator, device=source).to(device)
    place = (shift + torch.arange(batch, device=device) / batch) % 1.0
    is_first = place < first_share
    others, other_share = max(T - 1, 1), max(1.0 - first_share, 1e-12)
    above = ((place - first_share) / other_share * others).long().clamp(0, others - 1)
    t = torch.where(is_first, 1, 2 + above)
    weight = torch.where(is_first, 1 / first_share, others / other_share)
    return t, weight
