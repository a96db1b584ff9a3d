r"""A diffusion model in continuous time, whose noise schedule is learned.

In the limit of infinitely many levels the score matching terms are an integral over
:math:`\gamma = -\log \mathrm{SNR}` (Kingma et al. 2021, eqs. 17, 18),

.. math::
    \tfrac12 \int_0^1 \gamma'(t)\, E\|\epsilon - \hat\epsilon(x_t, t)\|^2 dt
    = \tfrac12 \int_{\gamma_0}^{\gamma_1} E\|\epsilon - \hat\epsilon\|^2 d\gamma,

for a network that knows the noise. The shape of γ(t) between its ends is then free. Therefore

* the end points are learned by the bound;
* the shape minimises the variance of the estimate of the integral from one time,
  :math:`E[\ell^2] - E[\ell]^2`, of which only the first term depends on it. Its gradient is
  :math:`2 \ell \nabla \ell`: that of the bound, multiplied on its way back to the shape by twice
  the loss of the example (section 5.3 and appendix I.2).

`ContinuousDiffusion.chain` is the same model with T levels: level t has the noise of time
:math:`(t - 1)/(T - 1)`, so that the network's time, :math:`(T - 1) t` in continuous time, is
t − 1 at level t, as in every chain. Level t ≥ 2 of that chain stands for the times since level
t − 1, and level 1 is both the first time and the reconstruction term.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.base.arguments import check_kind
from nelbo.base.errors import NelboError
from nelbo.chain.bound import Bound
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import rand_like, randn_like
from nelbo.chain.estimators import as_estimator
from nelbo.chain.terms import per_example
from nelbo.chain.variances import variance_of_mean
from nelbo.diffusion.learned_schedule import LearnedSchedule
from nelbo.diffusion.level_samplers import LevelSampler
from nelbo.diffusion.model import Diffusion
from nelbo.diffusion.noise_level import NoiseLevels, wide
from nelbo.diffusion.objectives import (
    BatchPart,
    TrainingTerms,
    default_probabilities,
    part_of_noise,
)
from nelbo.diffusion.variance import within_range

VARIANCES = ("learned_range", "fixed_large")
# Adam learns as fast from a small gradient, and gradients are clipped together: that of the shape,
# which is of a square, is to be the smaller part.
SQUARE_WEIGHT = 0.01


class ContinuousDiffusion(nn.Module):
    """A diffusion model with a learned schedule, for training; `chain` makes an ordinary one.

    Args:
        model: the network and all that a chain has beside its schedule, whose length T is kept.
        gamma: the schedule; by default one like the model's own.

    Raises:
        NelboError: a chain of one level, or a variance that has no limit: `fixed_small` has no
            variance for p(x_0|x_1) there, `analytic` is measured on one chain.
    """

    learns_schedule = True

    def __init__(self, model: Diffusion, gamma: LearnedSchedule | None = None) -> None:
        super().__init__()
        check_kind("model", model, Diffusion, "a Diffusion")
        if model.variance not in VARIANCES:
            raise NelboError(
                f"a learned schedule needs variance {' or '.join(VARIANCES)}, whose p(x_0|x_1) "
                f"does not depend on how many levels there are; got {model.variance!r}"
            )
        if model.num_levels < 2:
            raise NelboError("a learned schedule goes between two levels or more, got levels=1")
        self.model = model
        if gamma is None:
            device = next((p.device for p in model.parameters()), None)
            gamma = LearnedSchedule.like(model.schedule).to(device)
        self.gamma = gamma

    def chain(self) -> Diffusion:
        """The model with this schedule, at the levels of whole network times."""
        return self.model.replace(schedule=self.gamma.discretize(self.model.num_levels))

    def prior_matching(self, x_0: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
        """KL(q(x_1|x_0) || N(0, I)) at the last time, nats, (B,)."""
        last = self.gamma.first + self.gamma.span
        signal = torch.sigmoid(-last)
        wide = x_0.to(torch.promote_types(x_0.dtype, signal.dtype))
        return per_example(0.5 * (signal * (wide.square() - 1) - F.logsigmoid(last)))

    def elbo(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        levels: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Bound:
        """The continuous-time bound of each example, term by term.

        `Bound.score_matching` at level t is the integral over the times that this level of the
        chain stands for, from a time drawn among them.

        Args:
            x_0: data, (B, ...).
            condition: what the model is conditioned on for each example.
            levels: None draws a time for every level, an int K for K stratified ones.
            generator: the source of times and noise.

        Raises:
            NelboError: `levels` below one, or `x_0` that is not data of this model.
        """
        self.model.check_data(x_0)
        estimator = as_estimator(levels)

        def draw(t: Tensor) -> Tensor:
            place = _places(len(x_0), generator, x_0)
            return self._at(x_0, t, place, randn_like(x_0, generator), condition).terms

        first = torch.ones(len(x_0), dtype=torch.int64, device=x_0.device)
        costs = torch.stack([draw(first) for _ in range(estimator.reconstructions)], 1)
        chosen, weights = estimator.choose(len(x_0), self.model.num_levels, generator)
        chosen = chosen.to(x_0.device)
        return Bound(
            reconstruction=-costs.mean(1),
            prior_matching=self.prior_matching(x_0),
            score_matching=torch.stack([draw(t) for t in chosen.unbind(1)], 1),
            levels=chosen,
            weights=weights.to(x_0.device, torch.promote_types(x_0.dtype, torch.float32)),
            dims=x_0[0].numel(),
            reconstruction_variance=variance_of_mean(costs.detach()),
            reconstruction_calls=estimator.reconstructions * first,
        )

    def forward(
        self,
        x_0: Float[Tensor, "batch ..."],
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        part: BatchPart | None = None,
        level_sampler: LevelSampler | None = None,
    ) -> TrainingTerms:
        """The negative bound of a batch, or of the part of it that `x_0` is, to be minimised.

        The shape of the schedule gets the gradient of the mean squared loss of an image, times
        `SQUARE_WEIGHT` and per dimension, in place of that of the loss. A learned variance gets
        that of the chain's terms.

        Args:
            x_0: the data, or a part of it.
            condition: what the network is conditioned on, one entry an example.
            generator: draws the levels, the times within them, then the noise.
            part: which part `x_0` is.
            level_sampler: draws the levels; by default evenly spread ones.
        """
        whole = part or BatchPart(0, len(x_0), len(x_0))
        sampler = level_sampler or LevelSampler(
            default_probabilities("bound", self.model.num_levels)
        )
        t, weight = sampler.draw(whole.batch, generator, x_0.device)
        place = _places(whole.batch, generator, x_0)[whole.slice]
        noise = part_of_noise(x_0, part, generator)
        t, weight = t[whole.slice], weight[whole.slice]
        at = self._at(x_0, t, place, noise, condition)
        losses = weight * at.terms
        scale = SQUARE_WEIGHT * 2 * torch.where(t > 1, losses, 0.0).detach() / x_0[0].numel()
        for value in at.shape:
            if value.requires_grad:
                value.register_hook(lambda gradient: scale * gradient)
        nelbo = losses + self.prior_matching(x_0)
        # What only teaches the variance counts for its gradient, not its value.
        teaching = weight * (at.variance_terms - at.variance_terms.detach())
        return TrainingTerms((nelbo + teaching).mean(), nelbo.detach(), t, at.terms.detach())

    def _at(
        self,
        x_0: Tensor,
        t: Int[Tensor, " batch"],
        place: Float[Tensor, " batch"],
        noise: Tensor,
        condition: Condition | None,
    ) -> _Terms:
        """What each level costs: −log p(x_0|x_1) at t = 1, its part of the integral above.

        Args:
            x_0: data, (B, ...).
            t: levels in 1..T.
            place: where between the times of levels t − 1 and t, in [0, 1).
            noise: ε, as x_0.
            condition: what the network is conditioned on, one entry an example.
        """
        model, is_first = self.model, t == 1
        network_time = torch.where(is_first, 0.0, t - 2 + place)
        u, slope = self.gamma.shape(network_time * self._step)
        gamma = self.gamma.first + self.gamma.span * u
        signal, noise_power = torch.sigmoid(-gamma), torch.sigmoid(gamma)
        level = NoiseLevels(signal.sqrt(), noise_power.sqrt(), network_time)
        prediction = model.predict_at(level.diffuse(x_0, noise), level, condition)
        step = self._steps_down(network_time, is_first)
        log_low, log_high = wide(step.log_low, x_0), wide(step.log_high, x_0)
        log_variance = log_high
        if model.learns_variance:
            log_variance = within_range(log_low, log_high, prediction.variance_output)
        prediction = replace(prediction, log_variance=log_variance)
        error = x_0 - prediction.x_0
        growth = self.gamma.span * slope * self._step
        terms = 0.5 * growth * (-gamma).exp() * per_example(error.square())
        first = is_first.nonzero().flatten()
        if len(first):
            log_likelihood = model.likelihood(prediction[first]).log_prob(x_0[first])
            terms = terms.index_copy(0, first, -per_example(log_likelihood).to(terms.dtype))
        variance_terms = torch.zeros_like(terms)
        if model.learns_variance:
            squared = wide(step.squared_weight, x_0) * error.detach().square()
            log_ratio = log_low - log_variance
            divergence = squared * (-log_variance).exp() + torch.expm1(log_ratio) - log_ratio
            variance_terms = torch.where(is_first, 0.0, 0.5 * per_example(divergence))
        return _Terms(terms, variance_terms, (u, slope))

    @property
    def _step(self) -> float:
        """Time between two levels of the chain."""
        return 1 / (self.model.num_levels - 1)

    def _steps_down(self, network_time: Float[Tensor, " batch"], is_first: Tensor) -> _Steps:
        """The chain's steps down to each time from one level above.

        γ is extended below 0. These steps give gradients to the end points at level 1 only, where
        they are part of the bound. Above it the end points have another gradient, through x_t and a
        learned variance that the network reads from it (measured: +0.0047 ± 0.0003 at T = 50).
        """
        upper = torch.where(is_first, 1.0, network_time) * self._step
        with torch.no_grad():
            places = self.gamma.shape(torch.stack([upper - self._step, upper]))[0]
        lower, upper = self.gamma.first + self.gamma.span * places
        log_beta = (-torch.expm1(F.logsigmoid(-upper) - F.logsigmoid(-lower))).log()
        log_posterior = log_beta + F.logsigmoid(lower) - F.logsigmoid(upper)
        steps = _Steps(
            log_low=log_posterior,
            log_high=torch.where(is_first, F.logsigmoid(lower), log_beta),
            squared_weight=log_posterior.exp() * ((-lower).exp() - (-upper).exp()),
        )
        return _Steps(*(torch.where(is_first, value, value.detach()) for value in steps))


class _Steps(NamedTuple):
    """Steps of a chain down to some times, (B,) each.

    Attributes:
        log_low: log β̃ of the step, the low end of a learned variance; at level 1 log β̃_2.
        log_high: log β, the high end; at level 1 log β_1.
        squared_weight: the square of the weight of x_0 in the mean.
    """

    log_low: Tensor
    log_high: Tensor
    squared_weight: Tensor


class _Terms(NamedTuple):
    """What levels cost, in nats, (B,), and what the schedule has part in it.

    Attributes:
        terms: −log p(x_0|x_1) at level 1, the part of the integral above.
        variance_terms: the KL of the chain's step, in which only the variance has a gradient.
        shape: u and u' at each time, (B,).
    """

    terms: Tensor
    variance_terms: Tensor
    shape: tuple[Tensor, Tensor]


def _places(count: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Uniform draws from [0, 1), on the device of `like`."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return rand_like(like.new_empty(count, dtype=dtype), generator)
