r"""What training minimises, from one network call on one level an example.

With :math:`L_1 = -\log p(x_0|x_1)`, :math:`L_t` the score matching term at t ≥ 2 and
:math:`\pi` any distribution over levels, the negative bound is

.. math::
    \mathrm{NELBO} = KL(q(x_T|x_0) \| p(x_T)) + E_{t \sim \pi}[L_t / \pi(t)].

The objectives are

* ``simple``: the mean squared error of what the network predicts, levels uniform over 1..T
  (Ho et al. 2020, eq. 14), or moved towards the noise (Esser et al. 2024, eq. 23);
* ``hybrid``: simple + λ · bound in bits per dimension, λ = 0.001, where the bound sees the
  prediction detached, so that it teaches only a learned variance (Nichol & Dhariwal 2021, eq. 16);
* ``clipped``: as hybrid, with the error of what the model makes of the prediction, clipped to the
  range of the data, in v: :math:`E\|x_0 - \hat x_0\|^2 / (1 - \bar\alpha_t)`. Where the data are at
  the end of the range, as white paper is, any output beyond it is right, and at little noise that
  is far easier to learn than the noise itself, to its last digit;
* ``bound``: the negative bound itself, nats per example. Level 1 carries far more of it than any
  other level, so it is drawn with probability 0.1, the others uniformly;
* ``min_snr``, ``p2``, ``sigmoid``, ``edm``: the bound weighted by the log signal-to-noise ratio,
  see `nelbo.diffusion.weighting`, per dimension, levels uniform. A learned variance, which no
  squared error teaches, learns from the bound as with ``hybrid``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nelbo.base.arguments import check_choice
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import draw, randn_like
from nelbo.chain.examples import check_examples
from nelbo.chain.model import Model, check_model
from nelbo.diffusion.coefficients import Coefficient
from nelbo.diffusion.level_samplers import LevelSampler, level_probabilities, shifted_probabilities
from nelbo.diffusion.model import Diffusion
from nelbo.diffusion.prediction import Prediction
from nelbo.diffusion.schedule import NoiseSchedule
from nelbo.diffusion.weighting import WEIGHTINGS, Weighting, error_weight

OBJECTIVES = ("simple", "hybrid", "clipped", "bound", *WEIGHTINGS)
SHIFTED = ("simple", "hybrid", "clipped")
HYBRID_WEIGHT = 1e-3
FIRST_LEVEL_SHARE = 0.1


class TrainingTerms(NamedTuple):
    """One training batch: what to minimise, and a reading of the bound beside it.

    Attributes:
        loss: the objective, scalar.
        nelbo: an unbiased estimate of each example's negative bound from its one level, nats, (B,)
            without gradient. With input perturbation it is that of the perturbed model.
        levels: the level of each example, (B,).
        level_losses: what the objective is at that level, (B,) without gradient: the loss is the
            mean of these over π(t), but for the prior matching of a bound.
    """

    loss: Tensor
    nelbo: Float[Tensor, " batch"]
    levels: Int[Tensor, " batch"]
    level_losses: Float[Tensor, " batch"]


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


@dataclass(frozen=True)
class Objective:
    """An objective of a diffusion model, with the levels that it is estimated at.

    Args:
        kind: its name, one of `OBJECTIVES`, or a weighting of the bound.
        level_sampler: draws the levels; by default evenly spread ones.
        input_perturbation: γ; the network sees x_t with noise ε + γξ, ξ ~ N(0, I), and is to
            predict as without it (Ning et al. 2023, algorithm 1).
        level_shift: s, of the objectives simple, hybrid and clipped: more than 1 has levels of much
            noise count more; see `nelbo.diffusion.level_samplers.shifted_probabilities`.

    Raises:
        NelboError: an unknown objective, or a shift of one that has levels of its own.
    """

    kind: str | Weighting = "simple"
    level_sampler: LevelSampler | None = None
    input_perturbation: float = 0.0
    level_shift: float = 1.0

    def __post_init__(self) -> None:
        check_objective(self.kind, self.level_shift)

    def __call__(
        self,
        model: Diffusion,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        part: BatchPart | None = None,
    ) -> TrainingTerms:
        """The objective of a batch, or of the part of it that `x_0` is, each example at one level.

        Args:
            model: the model.
            x_0: the data, or a part of it.
            condition: what the network is conditioned on, one entry an example.
            generator: draws the levels, then the noise, then the noise of the perturbation.
            part: which part `x_0` is.
        """
        T, dims = model.num_levels, x_0[0].numel()
        whole = part or BatchPart(0, len(x_0), len(x_0))
        sampler = self.level_sampler or LevelSampler(
            default_probabilities(self.kind, T, self.level_shift)
        )
        t, weight = sampler.draw(whole.batch, generator, x_0.device)
        noise = part_of_noise(x_0, part, generator)
        t, weight = t[whole.slice], weight[whole.slice]
        x_t = model.diffuse(x_0, noise, t)
        if self.input_perturbation:
            extra = part_of_noise(x_0, part, generator)
            seen = model.diffuse(x_0, noise + self.input_perturbation * extra, t)
            prediction = replace(model.predict(seen, t, condition), x_t=x_t)
        else:
            prediction = model.predict(x_t, t, condition)

        if self.kind == "bound":
            terms = model.level_term(prediction, x_0, t)
            nelbo = weight * terms + model.prior_matching(x_0)
            return TrainingTerms(nelbo.mean(), nelbo.detach(), t, terms.detach())

        losses = self._losses(model, prediction, x_0, noise, t)
        teaches_variance = self.kind in ("hybrid", "clipped") or (
            self._weighting is not None and model.learns_variance
        )
        with torch.set_grad_enabled(teaches_variance and torch.is_grad_enabled()):
            terms = model.level_term(prediction.detach_mean(), x_0, t)
            nelbo = weight * terms + model.prior_matching(x_0)
        loss = (weight * losses).mean()
        if teaches_variance:
            share = HYBRID_WEIGHT / (dims * math.log(2.0))
            loss = loss + share * nelbo.mean()
            losses = losses + share * terms
        return TrainingTerms(loss, nelbo.detach(), t, losses.detach())

    @property
    def _weighting(self) -> Weighting | None:
        return self.kind if isinstance(self.kind, Weighting) else WEIGHTINGS.get(self.kind)

    def _losses(
        self, model: Diffusion, prediction: Prediction, x_0: Tensor, noise: Tensor, t: Tensor
    ) -> Float[Tensor, " batch"]:
        """What the prediction of each example costs at its level, the bound apart."""
        if self.kind == "clipped":
            wrong = (prediction.x_0 - x_0) / prediction.noise_scale
        else:
            wrong = prediction.output - prediction.target(x_0, noise)
        errors = wrong.square().flatten(1).mean(1)
        if self._weighting is not None:
            weight = error_weight(self._weighting, model.schedule, model.parameterization)
            return weight(t, errors) * errors
        losses = _share(model.num_levels, self.level_shift)(t, errors) * errors
        first = (t == 1).nonzero().flatten()
        if self.kind == "clipped" and len(first):
            nats = model.level_term(prediction[first], x_0[first], t[first]) / x_0[0].numel()
            losses = losses.index_copy(0, first, _first_level_weight(model.schedule) * nats)
        return losses


def loss(
    model: Model,
    x_0: Float[Tensor, "batch ..."],
    condition: Condition | None = None,
    *,
    objective: str | Weighting = "simple",
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """A training objective of a batch, scalar, each example at one level.

    Of a latent model it is that of the prior, at a draw of q(z_0|x_0); no gradient goes into the
    autoencoder, which would learn to encode nothing.

    Args:
        model: a `Diffusion`, or a model whose prior is one.
        x_0: data, (B, ...).
        condition: what the model is conditioned on, one entry an example.
        objective: its name, one of `nelbo.diffusion.objectives.OBJECTIVES`, or a weighting of the
            bound. The bound is in nats per example, the others are means over its values.
        generator: draws z_0 where there is one, the levels, then the noise.

    Raises:
        NelboError: an unknown objective, or a model without a chain of levels.
    """
    check_model(model)
    check_examples(x_0=x_0)
    if not len(x_0):
        raise NelboError("a batch of no images has no loss: give at least one")
    chain = model.chain
    if chain is None:
        raise NelboError(
            f"{model.noun} has no chain of levels to draw from: train it with its fit(data), or "
            "lower its evidence(x_0).total"
        )
    z_0 = x_0
    if chain is not model:
        with torch.no_grad():
            _, condition = model.conditioned(len(x_0), condition=condition)
            z_0 = draw(model.encode(x_0), generator)
    return Objective(objective)(chain, z_0, condition, generator=generator).loss


def check_objective(objective: str | Weighting, level_shift: float = 1.0) -> None:
    """Raise `NelboError` for an unknown objective, or one whose levels cannot be shifted."""
    if not isinstance(objective, Weighting):
        check_choice("objective", objective, OBJECTIVES)
    if level_shift != 1.0 and objective not in SHIFTED:
        raise NelboError(
            f"a shift of levels is for the objectives {', '.join(SHIFTED)}, whose levels count "
            f"alike; {objective!r} weights each level itself"
        )


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


def default_probabilities(
    objective: str | Weighting, T: int, level_shift: float = 1.0
) -> Float[Tensor, " T"]:
    """The π that suits an objective, (T,)."""
    if level_shift != 1.0:
        return shifted_probabilities(T, level_shift)
    of_bound = objective in ("bound", "clipped")
    return level_probabilities(T, FIRST_LEVEL_SHARE if of_bound else None)


@lru_cache(maxsize=16)
def _first_level_weight(schedule: NoiseSchedule) -> float:
    """What a nat a dimension of level 1 counts in `clipped`: as much as one of level 2, whose term
    is ½ (SNR_1 − SNR_2) E‖x_0 − x̂_0‖² where the variance is the least."""
    T = schedule.num_levels
    if T == 1:
        return 1.0
    gain = schedule.snr[1] - schedule.snr[2]
    return 1 / (0.5 * T * float(gain * schedule.noise_power[2]))


@lru_cache(maxsize=16)
def _share(T: int, level_shift: float) -> Coefficient:
    """How much the squared error of each level counts in `simple`."""
    return Coefficient(nn.functional.pad(shifted_probabilities(T, level_shift), (1, 0)))
