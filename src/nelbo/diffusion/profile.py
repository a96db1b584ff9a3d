r"""What each level of a chain costs, measured on data once.

The network's squared error at a level, :math:`E\|x_0 - \hat x_0(x_t)\|^2`, does not depend on which
other levels a chain has. So one profile of the whole chain gives the bound of every respaced one,
the variances that make it best, and which levels to keep: see `nelbo.diffusion.variance` and
`nelbo.diffusion.optimal_levels`.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nelbo.base.digest import digest
from nelbo.base.errors import NelboError
from nelbo.base.files import new_file
from nelbo.diffusion.schedule import Levels, NoiseSchedule

PROFILE_FILE = "level_profile.safetensors"

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

    @classmethod
    def of_variances(cls, schedule: NoiseSchedule, variance: Levels) -> LevelProfile:
        """The profile whose analytic variance is a given one at every level, and nothing else.

        Args:
            schedule: the chain.
            variance: Σ_t, (T+1,).
        """
        weight = schedule.posterior_data_weight.square()

        def unknown() -> Levels:  # each in memory of its own, as files of tensors have it
            return torch.full_like(variance, torch.nan)

        return cls(
            schedule=schedule,
            levels=torch.arange(1, schedule.num_levels + 1),
            squared_error=(variance - schedule.posterior_variance) / weight,
            standard_error=unknown(),
            score_matching=unknown(),
            score_matching_square=unknown(),
            data_variance=variance,
            reconstruction=unknown(),
            squared_norm=math.nan,
            dims=1,
            examples=0,
            draws=0,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile to a safetensors file, which appears whole or not at all.

        Raises:
            NelboError: it cannot be written.
        """
        counts = {name: str(getattr(self, name)) for name in (*_COUNTS, "squared_norm")}
        with new_file(Path(path)) as temporary:
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
