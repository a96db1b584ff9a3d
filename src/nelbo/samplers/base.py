"""Samplers: step rules over a grid of levels that leads from x_T down to x_0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from nelbo.base.arguments import check_choice, check_kind, described
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators
from nelbo.chain.examples import check_examples
from nelbo.diffusion import Diffusion, NoiseLevel, NoiseSchedule
from nelbo.diffusion.sampler import Sampler, State, Step
from nelbo.diffusion.start import warn_of_signal
from nelbo.networks.guidance import Guidance
from nelbo.samplers.grid import (
    NOISE_LEVELS,
    SPACINGS,
    checked_levels,
    checked_times,
    flow_times,
    noise_scales,
    remaining_steps,
    spaced_levels,
    spaced_times,
)
from nelbo.samplers.loop import StepRule

# The data: what every walk ends at, and no network is called with.
DATA = NoiseLevel(1.0, 0.0, -1, 0)


@dataclass(frozen=True)
class GridSampler(StepRule, Sampler):
    """A step rule over levels of the chain; the options that all samplers share.

    Args:
        steps: how many; None visits every level.
        spacing: which levels: "leading", "linspace" or "trailing"; None leaves the choice.
        steps_offset: added to the levels of "leading"; 1 in Stable Diffusion.
        skip: how many of the first steps to leave out; x_T is then what the next one starts from.
        levels: the levels to visit, increasing, in place of steps and spacing.

    Raises:
        NelboError: nothing is left after `skip`, or levels that the chain does not have.
    """

    steps: int | None = None
    _: KW_ONLY
    spacing: str | None = "trailing"
    steps_offset: int = 0
    skip: int = 0
    levels: Sequence[int] | None = None

    usual_spacing: ClassVar[str] = "trailing"

    def __post_init__(self) -> None:
        if self.spacing is not None:
            check_choice("spacing", self.spacing, SPACINGS)
        for option in fields(self):
            if isinstance(option.default, bool):
                check_kind(option.name, getattr(self, option.name), bool, "True or False")

    @property
    def kind_of_spacing(self) -> str:
        """`spacing`, or the usual one where it is left open."""
        return self.usual_spacing if self.spacing is None else self.spacing

    def grid(self, schedule: NoiseSchedule) -> list[NoiseLevel]:
        """The noise level that each step leads from, descending, before any is left out."""
        T = schedule.num_levels
        if self.levels is not None:
            levels = checked_levels(T, self.levels)
        else:
            steps = T if self.steps is None else self.steps
            levels = spaced_levels(T, steps, self.kind_of_spacing, self.steps_offset)
        return [schedule.noise_level(t) for t in reversed(levels)]

    def targets(self, schedule: NoiseSchedule, grid: Sequence[NoiseLevel]) -> list[NoiseLevel]:
        """The noise level that each step leads to: the next of the grid."""
        return [*grid[1:], self.end(schedule)]

    def end(self, schedule: NoiseSchedule) -> NoiseLevel:
        """Where the last step leads, the data."""
        return DATA

    def path(self, schedule: NoiseSchedule) -> list[Step]:
        """The noise levels that each step leads from and to."""
        check_kind("schedule", schedule, NoiseSchedule, "the NoiseSchedule of a model.schedule")
        grid = self.grid(schedule)
        path = list(zip(grid, self.targets(schedule, grid), strict=True))
        return path[-remaining_steps(len(path), self.skip) :]

    def visited(self, schedule: NoiseSchedule) -> list[int]:
        """The levels of the chain that steps lead from, or the nearest, increasing."""
        return [level.t for level, _ in reversed(self.path(schedule))]

    def iterate(
        self,
        model: Diffusion,
        x_T: Tensor,
        *,
        condition: Condition | None = None,
        guidance: float | Guidance = 1.0,
        generator: Generators | None = None,
    ) -> Iterator[State]:
        """Walk from x_T ~ N(0, I) to x_0, one state a step; the last one has t = 0.

        Warns where the walk starts at a level that still holds signal; a sampler that skips steps
        is one that goes on from a state of another walk.

        Raises:
            NelboError: no `Diffusion`, or an x_T that is no batch of its states.
        """
        check_walked(model)
        check_examples(x_T=x_T)
        model.start(len(x_T), x_T)
        if not self.skip:
            level = self.start_level(model.schedule)
            warn_of_signal(model.schedule, level, type(self).__name__)
        return self.walk(model.guided(guidance), x_T, condition=condition, generator=generator)


def check_walked(model: Any) -> None:
    """Raise `NelboError` for a model whose chain no sampler or edit walks."""
    if not hasattr(type(model), "predict_at"):
        expected = (
            "a Diffusion, such as the prior of a latent model, which has a sample and an edit"
        )
        raise NelboError(f"model is {described(model)}, expected {expected}")


@dataclass(frozen=True)
class SigmaSampler(GridSampler):
    """A step rule over noise levels σ, which need not be levels of the chain.

    Args:
        steps: how many.
        noise_levels: "karras", "log_snr", "flow", or "spaced" for the levels of `spacing`
            themselves; None is "spaced" with a spacing, and without one what suits the rule.
        rho: ρ of "karras"; larger has shorter steps at low noise.
        shift: k of "flow"; above 1 more of the levels are noisy.
        times: times w of flow matching to visit, decreasing, in place of all of these. The states
            are then (1 − w) x_0 + w ε, so that x_T is taken for that of the first time, as in
            diffusers.

    The others are those of `GridSampler`.
    """

    steps: int = 18
    _: KW_ONLY
    spacing: str | None = None
    noise_levels: str | None = None
    rho: float = 7.0
    shift: float = 1.0
    times: Sequence[float] | None = None

    usual_levels: ClassVar[str] = "log_snr"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise_levels is not None:
            check_choice("noise levels", self.noise_levels, NOISE_LEVELS)

    @property
    def kind_of_levels(self) -> str:
        """`noise_levels`, or what they are where they are left open."""
        usual = self.usual_levels if self.spacing is None else "spaced"
        return usual if self.noise_levels is None else self.noise_levels

    def grid(self, schedule: NoiseSchedule) -> list[NoiseLevel]:
        """The noise level that each step leads from, descending, before any is left out."""
        T = schedule.num_levels
        if self.times is not None:
            return [
                schedule.at_flow_time(w)._replace(signal_scale=1 - w, noise_scale=w)
                for w in checked_times(self.times)
            ]
        if self.levels is not None:
            return [schedule.at_level(t) for t in reversed(checked_levels(T, self.levels))]
        if self.kind_of_levels == "spaced":
            return [schedule.at_level(t) for t in reversed(self.spaced(T))]
        if self.kind_of_levels == "flow":
            at = np.interp(self.outermost(T), np.arange(T + 1), schedule.flow_times)
            times = flow_times(float(at[0]), float(at[1]), self.steps, self.shift)
            return [schedule.at_flow_time(w) for w in times]
        ends = self.ends(schedule)
        sigmas = noise_scales(*ends, self.steps, self.kind_of_levels, self.rho)
        return [self.at_sigma(schedule, sigma) for sigma in sigmas]

    def spaced(self, T: int) -> Sequence[float]:
        """The levels of `spacing`, increasing; "linspace" falls between levels of the chain."""
        times = spaced_times(T, self.steps, self.kind_of_spacing, self.steps_offset)
        return [time + 1 for time in times]

    def outermost(self, T: int) -> tuple[float, float]:
        """The last and first level of `spacing`; of "linspace" the chain's last in one step too."""
        levels = self.spaced(T)
        return (float(T) if self.kind_of_spacing == "linspace" else levels[-1]), levels[0]

    def ends(self, schedule: NoiseSchedule) -> tuple[float, float]:
        """The largest and smallest σ of noise levels off the chain: the ends of `spacing`."""
        outermost = self.outermost(schedule.num_levels)
        largest, smallest = (schedule.at_level(t).sigma for t in outermost)
        return min(largest, schedule.largest_sigma), smallest

    def at_sigma(self, schedule: NoiseSchedule, sigma: float) -> NoiseLevel:
        """The noise level of a σ, with the network's time between levels of the chain."""
        return schedule.at_sigma(sigma)
