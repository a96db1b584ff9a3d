r"""What each level of a chain costs, measured on data once.

The network's squared error at a level, :math:`E\|x_0 - \hat x_0(x_t)\|^2`, does not depend on which
other levels a chain has. So one profile of the whole chain tells the bound of every respaced one,
the variances that make it best, and which levels to keep: see `nelbo.diffusion.variance` and
`nelbo.diffusion.optimal_levels`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nelbo.base.digest import digest
from nelbo.base.errors import NelboError
from nelbo.base.files import atomic_file
from nelbo.chain.bound import variance_of_mean
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.data_space import Pixels
from nelbo.chain.distributions import randn_like
from nelbo.chain.mhvae import VALUES_PER_CALL, per_example
from nelbo.diffusion.rounding import fit_rounded_normal
from nelbo.diffusion.schedule import Levels, NoiseSchedule

if TYPE_CHECKING:
    from nelbo.diffusion.model import Diffusion

PROFILE_FILE = "level_profile.safetensors"
MEASURED_LEVELS = 100

# What is stored of the profile beside its tensors, and of its schedule.
_COUNTS = ("dims", "examples", "draws")
_SCHEDULE = ("alphas_cumprod", "network_times", "betas")


@dataclass(frozen=True, eq=False)
class LevelProfile:
    r"""Means over data of what each level costs; tensors (T+1,) float64, indexed by the level.

    Attributes:
        schedule: the chain it was measured on.
        levels: the levels that were measured, increasing; the others are interpolated.
        squared_error: E‖x_0 − x̂_0(x_t)‖² of an example, x̂_0 clipped where the model clips it.
        standard_error: of `squared_error` as the mean of the population of examples: the spread
            over examples of the mean over their draws; nan for one example.
        score_matching: E KL(q(x_{t-1}|x_t,x_0) || p(x_{t-1}|x_t)) at t ≥ 2 with the variance that
            the model had, nats; zero below.
        score_matching_square: E KL² over examples and noise; its root is the best proposal for
            drawing levels.
        data_variance: the one variance of p(x_0|x_t) that gives data the highest likelihood, for
            a chain whose first level is t.
        reconstruction: E[−log p(x_0|x_t)] with that variance, nats.
        squared_norm: E‖x_0‖².
        dims: number of dimensions of an example.
        examples: how many were measured at each level.
        draws: how many draws of noise for each of them.
    """

    schedule: NoiseSchedule
    levels: Int[Tensor, " measured"]
    squared_error: Levels
    standard_error: Levels
    score_matching: Levels
    score_matching_square: Levels
    data_variance: Levels
    reconstruction: Levels
    squared_norm: float
    dims: int
    examples: int
    draws: int

    @property
    def num_levels(self) -> int:
        """The length T of the chain."""
        return self.schedule.num_levels

    @property
    def prior_matching(self) -> Levels:
        """E KL(q(x_t|x_0) || N(0, I)): what it costs a chain to end at level t, nats."""
        signal = self.schedule.alphas_cumprod
        excess = -signal - self.schedule.noise_power.log()
        return 0.5 * (signal * self.squared_norm + excess * self.dims)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile to a safetensors file, which appears whole or not at all."""
        counts = {name: str(getattr(self, name)) for name in (*_COUNTS, "squared_norm")}
        with atomic_file(Path(path)) as temporary:
            save_file(self._tensors(), temporary, metadata=counts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LevelProfile:
        """The profile in a file that `save` wrote.

        Raises:
            NelboError: the file is missing or damaged, or holds something else.
        """
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                notes = file.metadata() or {}
            numbers: dict[str, Any] = {name: int(notes[name]) for name in _COUNTS}
            numbers["squared_norm"] = float(notes["squared_norm"])
            schedule = NoiseSchedule(**{name: tensors.pop(name) for name in _SCHEDULE})
            expected = {f.name for f in fields(cls)} - {"schedule", "squared_norm", *_COUNTS}
            if tensors.keys() != expected:
                raise KeyError(*(tensors.keys() ^ expected))
            if any(tensors[name].shape != schedule.betas.shape for name in expected - {"levels"}):
                raise ValueError(f"expected {schedule.num_levels + 1} values of each quantity")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise NelboError(
                f"{path} is not a level profile: {error}; measure it again with nelbo fit"
            ) from error
        return cls(schedule, **numbers, **tensors)

    def digest(self) -> str:
        """A hash of what decides where levels are drawn."""
        return digest([json.dumps(self.levels.tolist()), self.score_matching_square])

    def _tensors(self) -> dict[str, Tensor]:
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: value for name, value in own.items() if isinstance(value, Tensor)}
        return tensors | {name: getattr(self.schedule, name) for name in _SCHEDULE}


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
        condition: what the model is told of each example.
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
    if levels is not None and levels < 1:
        raise NelboError(f"levels must be None or at least 1, got {levels}")
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
    if draws < 1:
        raise NelboError(f"draws must be at least 1, got {draws}")
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
            told = None if condition is None else condition[examples[index]]
            parts.append(_measure(model, data[index], noise[index], told, group))
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


@torch.no_grad()
def _measure(
    model: Diffusion, x_0: Tensor, noise: Tensor, condition: Condition | None, levels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error (L, B), KL (L, B) and predicted data (L, B, ...) at some levels."""
    count, batch = len(levels), len(x_0)
    data, noise = (x.repeat(count, *[1] * (x.ndim - 1)) for x in (x_0, noise))
    told = None if condition is None else condition.repeat(count)
    t = levels.repeat_interleave(batch)
    x_t = model.diffuse(data, noise, t)
    prediction = model.predict(x_t, t, told)
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
    if isinstance(model.data, Pixels):
        variance = fit_rounded_normal(x_0, predicted, model.data.levels)
    else:
        variance = max((x_0 - predicted).double().square().mean().item(), 1e-30)
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
