r"""Measuring what each level of a chain costs on data, for the best variances and levels.

See `nelbo.diffusion.profile` for what a profile holds, `nelbo.diffusion.variance` and
`nelbo.diffusion.optimal_levels` for what it is good for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.arguments import check_count, check_kind
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.distributions import randn_like
from nelbo.chain.model import check_model
from nelbo.chain.terms import VALUES_PER_CALL, per_example
from nelbo.chain.variances import variance_of_mean
from nelbo.diffusion.model import Diffusion
from nelbo.diffusion.profile import LevelProfile
from nelbo.diffusion.rounding import fit_rounded_normal
from nelbo.diffusion.schedule import Levels, NoiseSchedule

MEASURED_LEVELS = 100


class LevelCost(NamedTuple):
    """What one level costs each example; see `LevelProfile`.

    Attributes:
        t: the level.
        squared_error: ‖x_0 − x̂_0‖² of each draw, all examples once, then again, (draws · N,).
        score_matching: the KL at t ≥ 2 of the same, nats.
        data_variance: the best variance of p(x_0|x_t).
        reconstruction: −log p(x_0|x_t) with it, nats, as `squared_error`.
    """

    t: int
    squared_error: Float[Tensor, " draws"]
    score_matching: Float[Tensor, " draws"]
    data_variance: float
    reconstruction: Float[Tensor, " draws"]


def level_profile(
    model: Diffusion,
    x_0: Float[Tensor, "batch ..."],
    condition: Condition | None = None,
    *,
    levels: int | None = MEASURED_LEVELS,
    draws: int = 1,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> LevelProfile:
    """Measure what each level of a chain costs; `levels` · `draws` network calls an example.

    Args:
        model: the model, evaluated where `x_0` is.
        x_0: data, (B, C, H, W).
        condition: what the model is conditioned on for each example.
        levels: about how many levels to measure, spread over 1..T; None measures all. Between
            them the logarithms of errors and of KL per unit of signal-to-noise ratio are
            interpolated linearly in log(1 − ᾱ_t), in which they are smooth.
        draws: draws of noise for each example, each used at every level.
        batch_size: (level, example) pairs in one network call.
        generator: the source of all noise.

    Raises:
        NelboError: `levels` or `draws` below one, or `x_0` that is not data of this model.
    """
    costs = measure_levels(
        model,
        x_0,
        condition,
        levels=levels,
        draws=draws,
        batch_size=batch_size,
        generator=generator,
    )
    return collect_levels(model, x_0, costs, draws=draws)


def levels_to_measure(schedule: NoiseSchedule, levels: int | None) -> list[int]:
    """About `levels` of the levels 1..T: even in the mean of t and log(1 − ᾱ_t), with both ends.

    Level 2, where the KLs begin, is always one of them.
    """
    T = schedule.num_levels
    if levels is not None:
        check_count("levels", levels)
    if levels is None or levels >= T:
        return list(range(1, T + 1))
    noise = schedule.noise_power[1:].log()
    place = torch.linspace(0, 1, T, dtype=torch.float64) + (noise - noise[0]) / (-noise[0])
    wanted = torch.linspace(0, place[-1].item(), max(levels - 1, 2), dtype=torch.float64)
    return sorted({1, 2, T, *(1 + torch.searchsorted(place, wanted).clamp(max=T - 1)).tolist()})


def measure_levels(
    model: Diffusion,
    x_0: Float[Tensor, "batch ..."],
    condition: Condition | None = None,
    *,
    levels: int | None = MEASURED_LEVELS,
    draws: int = 1,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[LevelCost]:
    """The steps of `level_profile`: one level after the other, upwards."""
    check_model(model)
    check_count("draws", draws)
    if batch_size is not None:
        check_count("batch_size", batch_size)
    model.check_data(x_0)
    check_condition(condition, len(x_0))
    pairs = batch_size or max(1, VALUES_PER_CALL // x_0[0].numel())
    examples = torch.arange(len(x_0), device=x_0.device).repeat(draws)
    data = x_0[examples]
    # The same noise at every level: else the choice of levels would go by the luck of each.
    noise = randn_like(data, generator)
    chosen = torch.tensor(levels_to_measure(model.schedule, levels), device=x_0.device)
    # Where there are few examples, several levels share a call.
    for group in chosen.split(max(1, pairs // len(examples))):
        parts = []
        for index in torch.arange(len(data), device=x_0.device).split(pairs):
            some = None if condition is None else condition[examples[index]]
            parts.append(_measure(model, data[index], noise[index], some, group))
        error, divergence, predicted = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        for row, t in enumerate(group.tolist()):
            variance, cost = _best_reconstruction(model, data, predicted[row])
            yield LevelCost(t, error[row], divergence[row], variance, cost)


def collect_levels(
    model: Diffusion, x_0: Tensor, costs: Iterator[LevelCost], *, draws: int = 1
) -> LevelProfile:
    """The profile from what `measure_levels` yields."""
    measured = list(costs)
    schedule, chosen = model.schedule, torch.tensor([cost.t for cost in measured])
    error = torch.stack([cost.squared_error for cost in measured]).double().cpu()
    divergence = torch.stack([cost.score_matching for cost in measured]).double().cpu()
    reconstruction = _column([cost.reconstruction.mean().item() for cost in measured])
    # Draws of one example are no examples: a mean over them is one observation.
    of_example = error.unflatten(1, (draws, len(x_0))).mean(1)
    of_mean = variance_of_mean(of_example).sqrt()
    # KL per unit of signal-to-noise ratio is smooth in the level; its step need not be.
    drop = torch.zeros_like(schedule.betas)
    drop[2:] = -schedule.snr[1:].diff()
    of_step = chosen >= 2

    def spread(values: Tensor, levels: Tensor = chosen, log: bool = True) -> Levels:
        return _interpolate(schedule, levels, values, log)

    def spread_divergence(values: Tensor, power: int) -> Levels:
        if not of_step.any():
            return torch.zeros_like(drop)
        at = chosen[of_step]
        return spread(values[of_step] / drop[at] ** power, at) * drop**power

    return LevelProfile(
        schedule=schedule,
        levels=chosen,
        squared_error=spread(error.mean(1)),
        standard_error=spread(of_mean, log=False),
        score_matching=spread_divergence(divergence.mean(1), 1),
        score_matching_square=spread_divergence(divergence.square().mean(1), 2),
        data_variance=spread(_column([cost.data_variance for cost in measured])),
        reconstruction=spread(reconstruction, log=False),
        squared_norm=per_example(x_0.double().square()).mean().item(),
        dims=x_0[0].numel(),
        examples=len(x_0),
        draws=draws,
    )


def fit_variance(
    model: Diffusion,
    data: Tensor | LevelProfile,
    condition: Condition | None = None,
    *,
    levels: int | None = MEASURED_LEVELS,
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> Diffusion:
    """The same model with variance="analytic", the optimal one at every level.

    Respaced chains of the result have an optimal variance of their own, from the same errors.

    Args:
        model: the model, with any variance; a learned one is ignored from then on.
        data: x_0, (B, C, H, W), or a profile that was measured before.
        condition: what the model is conditioned on for each example.
        levels: how many levels to measure; see `level_profile`.
        draws: draws of noise for each example.
        generator: the source of all noise.

    Raises:
        NelboError: data that are not the model's, or a profile of another chain.
    """
    check_kind("model", model, Diffusion, "a Diffusion")
    if not isinstance(data, LevelProfile):
        data = level_profile(
            model, data, condition, levels=levels, draws=draws, generator=generator
        )
    return model.with_profile(data, variance="analytic")


@torch.no_grad()
def _measure(
    model: Diffusion, x_0: Tensor, noise: Tensor, condition: Condition | None, levels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error (L, B), KL (L, B) and predicted data (L, B, ...) at some levels."""
    count, batch = len(levels), len(x_0)
    data, noise = (x.repeat(count, *[1] * (x.ndim - 1)) for x in (x_0, noise))
    repeated = None if condition is None else condition.repeat(count)
    t = levels.repeat_interleave(batch)
    x_t = model.diffuse(data, noise, t)
    prediction = model.predict(x_t, t, repeated)
    # There is no KL at t = 1; its place holds zeros.
    divergence = torch.zeros(len(t), dtype=data.dtype, device=data.device)
    step = (t >= 2).nonzero().flatten()
    if len(step):
        divergence[step] = model.level_term(prediction[step], data[step], t[step])
    error = per_example((data - prediction.x_0).square())
    return (
        error.view(count, -1),
        divergence.view(count, -1),
        prediction.x_0.view(count, batch, *x_0.shape[1:]),
    )


def _best_reconstruction(model: Diffusion, x_0: Tensor, predicted: Tensor) -> tuple[float, Tensor]:
    """The variance of the likeliest normal around the predictions, and the cost of each, nats."""
    if model.data.is_density:
        variance = max((x_0 - predicted).double().square().mean().item(), 1e-30)
    else:
        variance = fit_rounded_normal(x_0, predicted, model.data.shown_levels)
    likelihood = model.data.likelihood(predicted, x_0.new_tensor(variance**0.5))
    return variance, -per_example(likelihood.log_prob(x_0)).double()


def _interpolate(schedule: NoiseSchedule, levels: Tensor, values: Tensor, log: bool) -> Levels:
    """Values at every level from those at some, (T+1,); zero at level 0."""
    smooth = values.clamp(min=1e-300).log() if log else values
    place = schedule.noise_power[1:].log()
    filled = torch.zeros_like(schedule.betas)
    between = np.interp(place.numpy(), place[levels - 1].numpy(), smooth.numpy())
    filled[1:] = torch.from_numpy(between)
    if log:
        filled[1:] = filled[1:].exp()
    filled[levels] = values
    return filled


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
