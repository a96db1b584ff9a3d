"""The schedulers of flow matching: diffusers' `FlowMatchEulerDiscreteScheduler`, and those like it.

Their network predicts a velocity, and is called with the time w of flow matching times
`num_train_timesteps`. The chain is `NoiseSchedule.flow_matching(num_train_timesteps, shift)`; what
a scheduler of this class has no field for, as another number of levels, is in nelbo.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nelbo.base.errors import NelboError, explained
from nelbo.diffusion import Diffusion, NoiseSchedule
from nelbo.diffusion.prediction import Velocity
from nelbo.diffusion.thresholding import StaticThreshold
from nelbo.formats.flow_times import SPREAD, shift_of, walk_times
from nelbo.formats.pipeline import Pipeline
from nelbo.formats.scheduler import (
    BETAS,
    CHAIN_LEVELS,
    FLOW_READERS,
    READERS,
    WRITERS,
    ContinuousScheduler,
    own_levels,
)
from nelbo.formats.scheduler_classes import SCHEDULERS
from nelbo.formats.scheduler_sampler import read_sampler
from nelbo.networks.pretrained import DIFFUSERS_VERSION
from nelbo.samplers import DPMSolver, Euler, Sampler
from nelbo.samplers.grid import check_steps, flow_times

CLASS = "FlowMatchEulerDiscreteScheduler"
# Of the same chain, with solvers that nelbo does not have.
_OTHER_CLASSES = ("FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
TIME_SCALE = "time_scale"
_DEFAULTS: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 1.0}
# Fields that change the chain in ways that are not supported.
_OTHER_CHAINS = ("invert_sigmas",)
# Of which a scheduler has one at most.
_SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
# Fields that change the walk to one of times that are not even, before the shift, in the levels of
# the chain.
_OTHER_TIMES = ("shift_terminal", *_SPACINGS, "use_dynamic_shifting", SPREAD, BETAS, CHAIN_LEVELS)
# A field that changes the walk alone in a way that nelbo has no sampler for.
_STOCHASTIC = "stochastic_sampling"
_STEPS = 50


class FlowScheduler(ContinuousScheduler):
    """A scheduler of flow matching: the chain of a velocity, walked by Euler's method."""

    defaults = _DEFAULTS

    @classmethod
    def unsupported(cls, name: str, found: Mapping[str, Any]) -> str | None:
        """A field that changes the chain in a way that is not supported, if there is one."""
        return next((field for field in _OTHER_CHAINS if found.get(field)), None)

    @property
    def shift(self) -> float:
        """k of the times; with `use_dynamic_shifting` that of the size of a picture."""
        return shift_of(self)

    @property
    def schedule(self) -> NoiseSchedule:
        """The levels w = 1/T, ..., 1, shifted."""
        T, shift = self.integer("num_train_timesteps", 1), self.shift
        if CHAIN_LEVELS in self.fields:
            T = self.integer(CHAIN_LEVELS, 1)
        with explained(self.file):
            return NoiseSchedule.flow_matching(T, shift)

    @property
    def chain_options(self) -> dict[str, Any]:
        """Prediction and variance: that which suits fine levels, for the class names none."""
        T = self.integer("num_train_timesteps", 1)
        return {"prediction": Velocity(T), "variance": "fixed_large"}

    @property
    def unmatched(self) -> str | None:
        """Another solver, or fresh noise at each step."""
        name = str(self.fields["_class_name"])
        if name in _OTHER_CLASSES:
            return name
        given = self.fields.get(_STOCHASTIC)
        return f"sampler with {_STOCHASTIC}=True" if given else None

    def walk(self, steps: int | None) -> Euler:
        """Euler's method through times that are even before the shift.

        The class of diffusers shifts the lower end of the times twice, which the walk here does
        as well: level 1 is shifted already.
        """
        T, shift = self.integer("num_train_timesteps", 1), self.shift
        steps = min(_STEPS, T) if steps is None else steps
        if not any(self.fields.get(field) for field in _OTHER_TIMES):
            return Euler(steps, noise_levels="flow", shift=shift)
        check_steps(T, steps)
        if len(spaced := [field for field in _SPACINGS if self.fields.get(field)]) > 1:
            raise self.wrong(spaced[1], f"false beside {spaced[0]}=True")
        # Only the levels of a shift that is fixed are shifted before they are spread.
        last = 1 / T if self.fields.get("use_dynamic_shifting") else shift / (T + shift - 1)
        return Euler(steps, times=walk_times(self, steps, shift, last))


class FlowSolver(FlowScheduler):
    """A solver of diffusion models on the chain of a velocity (`use_flow_sigmas`)."""

    @classmethod
    def complete(cls, name: str, found: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a file that count for a class, with its defaults for those it lacks."""
        return {"flow_shift": 1.0} | SCHEDULERS[name].complete(found)

    @classmethod
    def unsupported(cls, name: str, found: Mapping[str, Any]) -> str | None:
        """A prediction whose chain is another."""
        return "prediction_type" if found.get("prediction_type") != "flow_prediction" else None

    @property
    def whole_times(self) -> bool:
        """Yes: such solvers hold their times as integers."""
        return True

    @property
    def shift(self) -> float:
        """k of the times."""
        return shift_of(self, "flow_shift")

    def sampler(self, steps: int | None = None, kind: type[Sampler] | None = None) -> Sampler:
        """The solver through times that are even before the shift, or another sampler."""
        sampler = read_sampler(self, steps, kind)
        if not isinstance(sampler, DPMSolver) or kind is not None:
            return sampler
        T, n = self.integer("num_train_timesteps", 1), sampler.steps
        check_steps(T, n)
        first = (T - 1) / T
        # In the precision that diffusers holds them in.
        times = np.array(flow_times(first, first / n, n, self.shift), np.float32)
        return replace(sampler, times=times.tolist())


def flow_config(model: Diffusion, sampler: Sampler | None) -> dict[str, Any]:
    """The contents of a scheduler config of the chain of a velocity.

    `num_train_timesteps` is what the time of its network is counted in, whatever the number of its
    levels, for diffusers knows no other.

    Raises:
        NelboError: a sampler that diffusers has no class for on such a chain, or a threshold.
    """
    fields = {
        "_class_name": CLASS,
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": _counted(model),
        "shift": _shift(model.schedule),
    }
    config = FlowScheduler(Path(CLASS), fields | own_levels(fields, model.schedule))
    if sampler is not None and sampler != config.sampler(getattr(sampler, "steps", 1)):
        raise NelboError(
            f"the {CLASS} of diffusers walks by Euler's method through times of its own alone, "
            f"found {sampler}: save the model without a sampler"
        )
    if model.threshold not in (None, StaticThreshold()):
        raise NelboError(f"the {CLASS} of diffusers has no {type(model.threshold).__name__}")
    return fields


def flow_notes(model: Diffusion) -> dict[str, Any]:
    """The entry of nelbo.json for a scale of time that `flow_config` has no field for."""
    counted = _counted(model)
    scale = getattr(model.parameterization, "time_scale", counted)
    return {} if scale == counted else {TIME_SCALE: scale}


def own_prediction(pipeline: Pipeline) -> dict[str, Any]:
    """The option of `Diffusion` for a scale of time in nelbo.json, if it has one."""
    if TIME_SCALE not in pipeline.notes:
        return {}
    return {"prediction": Velocity(pipeline.own_fields.positive(TIME_SCALE))}


def _counted(model: Diffusion) -> int:
    """The scale of a velocity's time where diffusers can count in it, else the levels."""
    scale = getattr(model.parameterization, "time_scale", 1)
    return int(scale) if scale > 1 and scale == int(scale) else model.num_levels


def _shift(schedule: NoiseSchedule) -> float:
    config = schedule.config or {}
    shift = config.get("shift", 1.0)
    assert isinstance(shift, int | float)
    return float(shift)


READERS |= dict.fromkeys((CLASS, *_OTHER_CLASSES), FlowScheduler)
FLOW_READERS |= {
    name: FlowSolver for name, each in SCHEDULERS.items() if "use_flow_sigmas" in each.has
}
WRITERS[Velocity] = flow_config
