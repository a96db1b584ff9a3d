"""Scheduler configs: the chain and the sampler in one file, as diffusers keeps them.

The chain is the betas, what the network predicts and the reverse variance; every scheduler class
says the same of it. The sampler is the class itself and its spacing of the steps.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nelbo.diffusion import Diffusion, NoiseSchedule
from nelbo.diffusion.variance import analytic_variance
from nelbo.errors import NelboError
from nelbo.networks.files import read_json
from nelbo.networks.pretrained import DIFFUSERS_VERSION
from nelbo.samplers import DDIM, DDPM, Sampler
from nelbo.samplers.spacing import SPACINGS

SCHEDULER_FILE = "scheduler_config.json"
DEFAULT_STEPS = 50

# diffusers' names of the reverse variance; "log" variants differ in rounding only.
_VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
}

_SCHEDULES: dict[str, Callable[[int, float, float], NoiseSchedule]] = {
    "linear": NoiseSchedule.linear,
    "scaled_linear": NoiseSchedule.scaled_linear,
    "squaredcos_cap_v2": lambda T, beta_start, beta_end: NoiseSchedule.cosine(T),
    "sigmoid": NoiseSchedule.sigmoid,
}

# Fields that change the chain in ways that are not supported, with the value that leaves it alone.
_NEUTRAL: dict[str, object] = {
    "rescale_betas_zero_snr": False,
    "thresholding": False,
    "timestep_type": "discrete",
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
}

# What diffusers takes a missing field for, in every class and where a class differs.
_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "clip_sample_range": 1.0,
    "steps_offset": 0,
    "set_alpha_to_one": True,
}
_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {"clip_sample": True, "timestep_spacing": "leading"},
    "DDIMScheduler": {"clip_sample": True, "timestep_spacing": "leading"},
    "PNDMScheduler": {"timestep_spacing": "leading", "set_alpha_to_one": False},
    "LMSDiscreteScheduler": {"timestep_spacing": "linspace"},
    "EulerDiscreteScheduler": {"timestep_spacing": "linspace"},
    "DPMSolverMultistepScheduler": {"timestep_spacing": "linspace"},
}

# What a pipeline of diffusers insists on, whatever the file says.
PIPELINE_FIELDS: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"clip_sample": False, "steps_offset": 1}
}


@dataclass(frozen=True)
class SchedulerConfig:
    """A scheduler config whose fields are read on demand and checked as they are.

    Args:
        file: where it was read, for messages.
        fields: its content.
    """

    file: Path
    fields: Mapping[str, Any]

    @classmethod
    def read(cls, file: Path, overrides: Mapping[str, Any] | None = None) -> SchedulerConfig:
        """The config in a file; `overrides` is what a pipeline insists on.

        Raises:
            NelboError: an unknown class, or a field that changes the chain in a way that nelbo has
                no model for.
        """
        found = read_json(file)
        given = {name: value for name, value in found.items() if value is not None}
        for field, neutral in _NEUTRAL.items():
            if given.get(field, neutral) != neutral:
                raise NelboError(f"{file}: {field}={given[field]!r} is not supported")
        config = cls(file, given)
        class_name = config._choose("_class_name", {name: name for name in _CLASS_DEFAULTS})
        defaults = _DEFAULTS | _CLASS_DEFAULTS[class_name]
        if "clip_sample" not in defaults:
            # This class has no such field, whatever its file says.
            given["clip_sample"] = False
        return cls(file, defaults | given | dict(overrides or {}))

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise levels of the chain."""
        T = self._integer("num_train_timesteps", 1)
        trained = self.fields.get("trained_betas")
        if trained is not None:
            return self._trained_schedule(trained, T)
        build = self._choose("beta_schedule", _SCHEDULES)
        try:
            return build(T, self._number("beta_start"), self._number("beta_end"))
        except ValueError as error:
            raise NelboError(f"{self.file}: {error}") from error

    @property
    def chain_options(self) -> dict[str, Any]:
        """The options of `Diffusion`: prediction, variance and clip_sample."""
        clip = self._boolean("clip_sample")
        if clip and self._number("clip_sample_range") != 1:
            raise NelboError(
                f"{self.file}: clip_sample_range is {self.fields['clip_sample_range']!r}, only 1.0 "
                "is supported"
            )
        predictions = {name: name for name in ("epsilon", "sample", "v_prediction")}
        return {
            "prediction": self._choose("prediction_type", predictions),
            "variance": self._choose("variance_type", _VARIANCES),
            "clip_sample": clip,
        }

    def sampler(self, steps: int | None = None) -> Sampler:
        """The sampler; DDIM with a note where nelbo has none of the class.

        Args:
            steps: number of network calls; None for all levels with DDPM and 50 with DDIM, which
                is what pipelines of diffusers default to.
        """
        class_name = self.fields["_class_name"]
        spacing = self._choose("timestep_spacing", {name: name for name in SPACINGS})
        offset = self._integer("steps_offset", 0)
        if class_name == "DDPMScheduler":
            return DDPM(steps, spacing=spacing, steps_offset=offset)
        if class_name != "DDIMScheduler":
            warnings.warn(
                f"{self.file}: nelbo has no {class_name}, so it samples with DDIM through the same "
                "chain",
                stacklevel=3,
            )
        T = self._integer("num_train_timesteps", 1)
        return DDIM(
            min(DEFAULT_STEPS, T) if steps is None else steps,
            spacing=spacing,
            steps_offset=offset,
            set_alpha_to_one=self._boolean("set_alpha_to_one"),
        )

    def _trained_schedule(self, betas: Any, T: int) -> NoiseSchedule:
        try:
            schedule = NoiseSchedule.from_betas(betas)
        except (TypeError, ValueError) as error:
            raise NelboError(f"{self.file}: trained_betas: {error}") from error
        if schedule.num_levels != T:
            raise NelboError(
                f"{self.file}: trained_betas has {schedule.num_levels} numbers, expected {T}, that "
                "is num_train_timesteps"
            )
        return schedule

    def _choose(self, field: str, allowed: Mapping[str, Any]) -> Any:
        value = self.fields.get(field)
        if not isinstance(value, str) or value not in allowed:
            raise self._wrong(field, f"one of {', '.join(allowed)}")
        return allowed[value]

    def _boolean(self, field: str) -> bool:
        if not isinstance(self.fields[field], bool):
            raise self._wrong(field, "true or false")
        return self.fields[field]

    def _integer(self, field: str, least: int) -> int:
        value = self.fields[field]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._wrong(field, f"an integer of at least {least}")
        return value

    def _number(self, field: str) -> float:
        value = self.fields[field]
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not math.isfinite(value)
        ):
            raise self._wrong(field, "a number")
        return float(value)

    def _wrong(self, field: str, expected: str) -> NelboError:
        return NelboError(
            f"{self.file}: {field} is {self.fields.get(field)!r}, expected {expected}"
        )


def scheduler_config(model: Diffusion, sampler: Sampler) -> dict[str, Any]:
    """The contents of a scheduler config that describes a chain and a sampler.

    Raises:
        NelboError: diffusers has no such sampler.
    """
    schedule = model.schedule
    chain = schedule.config or {
        "beta_schedule": "linear",
        "trained_betas": schedule.betas[1:].tolist(),
    }
    return {
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": schedule.num_levels,
        **chain,
        "prediction_type": model.prediction,
        "clip_sample": model.clip_sample,
        "clip_sample_range": 1.0,
        "rescale_betas_zero_snr": False,
        "thresholding": False,
        **_sampler_fields(model, sampler),
    }


def _variance_type(model: Diffusion) -> str:
    """diffusers' name of the reverse variance; for an analytic one, what comes closest.

    Where the network has channels for a learned variance, the pipeline must be told of them.
    """
    if model.variance != "analytic":
        return model.variance
    config: Any = getattr(model.network, "config", None)
    if config is not None and config.out_channels == 2 * config.in_channels:
        return "learned_range"
    own, schedule = analytic_variance(model.schedule, model.profile)[2:], model.schedule
    fixed = {"fixed_small": schedule.posterior_variance[2:], "fixed_large": schedule.betas[2:]}
    return min(fixed, key=lambda name: float((fixed[name] / own).log().abs().sum()))


def _sampler_fields(model: Diffusion, sampler: Sampler) -> dict[str, Any]:
    if isinstance(sampler, DDPM):
        return {
            "_class_name": "DDPMScheduler",
            "variance_type": _variance_type(model),
            "timestep_spacing": sampler.spacing,
            "steps_offset": sampler.steps_offset,
        }
    if isinstance(sampler, DDIM):
        return {
            "_class_name": "DDIMScheduler",
            "timestep_spacing": sampler.spacing,
            "steps_offset": sampler.steps_offset,
            "set_alpha_to_one": sampler.set_alpha_to_one,
        }
    raise NelboError(
        f"{type(sampler).__name__} has no place in a pipeline of diffusers: save it with DDPM or "
        "DDIM"
    )
