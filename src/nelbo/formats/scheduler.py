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

from nelbo.base.errors import NelboError
from nelbo.base.files import read_json
from nelbo.diffusion import Diffusion, DynamicThreshold, NoiseSchedule, StaticThreshold
from nelbo.diffusion.thresholding import Threshold
from nelbo.diffusion.variance import analytic_variance
from nelbo.formats.scheduler_classes import CLIPPING, SCHEDULERS, THRESHOLDING
from nelbo.networks.pretrained import DIFFUSERS_VERSION
from nelbo.samplers import DDIM, DDPM, DPMSolver, Euler, Heun, Sampler
from nelbo.samplers.dpm_solver import SOLVER_TYPES
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

# Fields of solvers that change the walk in ways that are not supported, likewise.
_NEUTRAL_FOR_SOLVERS: dict[str, object] = {
    "use_beta_sigmas": False,
    "sigma_min": None,
    "sigma_max": None,
    "interpolation_type": "linear",
    "lambda_min_clipped": -math.inf,
}

_DPM_SOLVER = "DPMSolverMultistepScheduler"
_SAMPLERS: dict[str, type[Sampler]] = {
    "DDPMScheduler": DDPM,
    "DDIMScheduler": DDIM,
    "EulerDiscreteScheduler": Euler,
    "HeunDiscreteScheduler": Heun,
    _DPM_SOLVER: DPMSolver,
}

# What a pipeline of diffusers insists on, whatever the file says.
PIPELINE_FIELDS: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"clip_sample": False, "steps_offset": 1},
    "StableDiffusionImg2ImgPipeline": {"clip_sample": False, "steps_offset": 1},
    "StableDiffusionInpaintPipeline": {"steps_offset": 1},
}

# What other classes call what DPM-Solver++ does, and diffusers takes their names for.
_ALIASES = {
    "solver_type": {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"},
    "algorithm_type": {"deis": "dpmsolver++"},
}


class _NoCounterpart(NelboError):
    """An option of a solver that nelbo has no sampler for; the chain is none the worse."""


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
    def read(
        cls,
        file: Path,
        overrides: Mapping[str, Any] | None = None,
        class_name: str | None = None,
    ) -> SchedulerConfig:
        """The config in a file.

        Args:
            file: where it is.
            overrides: what a pipeline insists on.
            class_name: the class that reads it, which the index of a pipeline decides; by default
                the one that the file names.

        Raises:
            NelboError: a class without a chain that nelbo has a model for, or a field that changes
                the chain in a way that it has none for.
        """
        found = read_json(file)
        name = found.get("_class_name") if class_name is None else class_name
        if not isinstance(name, str) or name not in SCHEDULERS:
            raise NelboError(
                f"{file}: _class_name is {name!r}, expected one of {', '.join(SCHEDULERS)}"
            )
        known = SCHEDULERS[name]
        if (field := known.unsupported(found)) is not None:
            raise NelboError(f"{file}: {field}={found[field]!r} is not supported")
        return cls(file, known.complete(found) | {"_class_name": name} | dict(overrides or {}))

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise levels of the chain."""
        schedule = self._schedule_as_trained
        if self._boolean("rescale_betas_zero_snr"):
            return schedule.with_zero_terminal_snr()
        return schedule

    @property
    def _schedule_as_trained(self) -> NoiseSchedule:
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
        """The options of `Diffusion`: prediction, variance, clip_sample and thresholding."""
        if self._boolean("rescale_betas_zero_snr") and self.fields["prediction_type"] == "epsilon":
            raise self._wrong(
                "prediction_type",
                "v_prediction or sample with rescale_betas_zero_snr, which leaves x_0 undetermined "
                "by the noise at the last level",
            )
        predictions = {name: name for name in ("epsilon", "sample", "v_prediction")}
        return {
            "prediction": self._choose("prediction_type", predictions),
            "variance": self._choose("variance_type", _VARIANCES),
            "clip_sample": self._boolean("clip_sample"),
            "thresholding": self._thresholding(),
        }

    def sampler(self, steps: int | None = None, kind: type[Sampler] | None = None) -> Sampler:
        """The sampler that the file describes, or another on the chain.

        Where nelbo has no such solver, or not with such an option, it is DDIM through the same
        levels, with a note.

        Args:
            steps: how many; None for all levels with DDPM and 50 otherwise, which is what
                pipelines of diffusers default to, and of another kind as many as it takes itself.
            kind: the class of the sampler; None is the one described. Any other visits its own
                levels, and ends where the one described does.

        Raises:
            NelboError: a field that is malformed.
        """
        described = self._described_kind
        if kind is not None and kind is not described:
            return self._other(kind, steps)
        spacing = self._choose("timestep_spacing", {name: name for name in SPACINGS})
        offset = self._integer("steps_offset", 0)
        T = self._integer("num_train_timesteps", 1)
        if described is DDPM:
            return DDPM(steps, spacing=spacing, steps_offset=offset)
        if steps is None:
            steps = min(DEFAULT_STEPS, T)
        if described is None:
            self._note_substitute(f"nelbo has no {self.class_name}")
        elif described is not DDIM:
            try:
                return self._solver(described, steps, spacing, offset)
            except _NoCounterpart as error:
                self._note_substitute(str(error).removeprefix(f"{self.file}: "))
        return DDIM(
            steps,
            spacing=spacing,
            steps_offset=offset,
            set_alpha_to_one=self._boolean("set_alpha_to_one"),
        )

    @property
    def class_name(self) -> str:
        """The scheduler class of diffusers that reads the file."""
        name: str = self.fields["_class_name"]
        return name

    @property
    def _described_kind(self) -> type[Sampler] | None:
        """The sampler that walks as the class does, if nelbo has one."""
        return _SAMPLERS.get(SCHEDULERS[self.class_name].same_walk or self.class_name)

    def _other(self, kind: type[Sampler], steps: int | None) -> Sampler:
        given: dict[str, Any] = {} if steps is None else {"steps": steps}
        if kind in (DDIM, DPMSolver) and self._described_kind in (DDIM, None):
            given["set_alpha_to_one"] = self._boolean("set_alpha_to_one")
        return kind(**given)

    def _note_substitute(self, why: str) -> None:
        warnings.warn(
            f"{self.file}: {why}, so DDIM walks the same chain in its place; --sampler has others",
            stacklevel=4,
        )

    def _solver(self, kind: type[Sampler], steps: int, spacing: str, offset: int) -> Sampler:
        for field, neutral in _NEUTRAL_FOR_SOLVERS.items():
            if self.fields.get(field, neutral) != neutral:
                raise self._unmatched(field, f"{neutral}, all that nelbo has a sampler for")
        is_dpm_solver = kind is DPMSolver
        options: dict[str, Any] = {
            "spacing": spacing,
            "steps_offset": offset,
            "noise_levels": self._noise_levels(is_dpm_solver),
        }
        goes_to_data = self._option("final_sigmas_type", {"zero": True, "sigma_min": False})
        if not is_dpm_solver:
            if not goes_to_data:
                raise self._unmatched("final_sigmas_type", f"zero for {self.class_name}")
            make: Callable[..., Sampler] = kind
            return make(steps, **options)
        kinds = {"dpmsolver++": False, "sde-dpmsolver++": True}
        order = self._integer("solver_order", 1)
        stochastic = self._option("algorithm_type", kinds)
        if order not in ((1, 2) if stochastic else (1, 2, 3)):
            raise self._unmatched("solver_order", "1 or 2" if stochastic else "1, 2 or 3")
        return DPMSolver(
            steps,
            order=order,
            stochastic=stochastic,
            solver_type=self._option("solver_type", {name: name for name in SOLVER_TYPES}),
            lower_order_final=self._boolean("lower_order_final"),
            euler_at_final=self._boolean("euler_at_final"),
            set_alpha_to_one=goes_to_data,
            **options,
        )

    def _noise_levels(self, is_dpm_solver: bool) -> str:
        if self._boolean("use_karras_sigmas"):
            return "karras"
        # Exponential sigmas and Lu's lambdas are the same noise levels, but DPM-Solver++ tells the
        # network the level below each of the former and the nearest of the latter.
        if is_dpm_solver and self._boolean("use_exponential_sigmas"):
            raise self._unmatched("use_exponential_sigmas", "false, or use_lu_lambdas in its place")
        field = "use_lu_lambdas" if is_dpm_solver else "use_exponential_sigmas"
        return "log_snr" if self._boolean(field) else "spaced"

    def _thresholding(self) -> Threshold | None:
        if self._boolean("thresholding"):
            ratio = self._number("dynamic_thresholding_ratio")
            try:
                return DynamicThreshold(ratio, self._number("sample_max_value"))
            except NelboError as error:
                raise NelboError(f"{self.file}: {error}") from error
        if not self._boolean("clip_sample") or self._number("clip_sample_range") == 1:
            return None
        try:
            return StaticThreshold(self._number("clip_sample_range"))
        except NelboError as error:
            raise NelboError(f"{self.file}: clip_sample_range: {error}") from error

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

    def _option(self, field: str, allowed: Mapping[str, Any]) -> Any:
        """What an option of a solver stands for.

        Raises:
            _NoCounterpart: one that nelbo has no sampler for.
            NelboError: no name of one.
        """
        value = self.fields.get(field)
        if not isinstance(value, str):
            raise self._wrong(field, f"one of {', '.join(allowed)}")
        value = _ALIASES.get(field, {}).get(value, value)
        if value not in allowed:
            raise self._unmatched(field, f"one of {', '.join(allowed)}")
        return allowed[value]

    def _unmatched(self, field: str, expected: str) -> _NoCounterpart:
        return _NoCounterpart(str(self._wrong(field, expected)))

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
        NelboError: diffusers has no such sampler, or none with this thresholding.
    """
    schedule = model.schedule
    chain = schedule.config or {
        "beta_schedule": "linear",
        "trained_betas": schedule.betas[1:].tolist(),
    }
    fields = {
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": schedule.num_levels,
        **chain,
        "prediction_type": model.prediction,
        **_threshold_fields(model),
        "rescale_betas_zero_snr": bool(schedule.alphas_cumprod[-1] == 0),
        **_sampler_fields(model, sampler),
    }
    able = THRESHOLDING if isinstance(model.thresholding, DynamicThreshold) else CLIPPING
    if model.thresholding is not None and fields["_class_name"] not in able:
        raise NelboError(
            f"the {fields['_class_name']} of diffusers has no {type(model.thresholding).__name__}: "
            "save the model with DDPM or DDIM"
        )
    return fields


def _threshold_fields(model: Diffusion) -> dict[str, Any]:
    threshold = model.thresholding
    fields: dict[str, Any] = {
        "clip_sample": model.clip_sample or isinstance(threshold, StaticThreshold),
        "clip_sample_range": getattr(threshold, "range", 1.0),
        "thresholding": isinstance(threshold, DynamicThreshold),
    }
    if isinstance(threshold, DynamicThreshold):
        fields["dynamic_thresholding_ratio"] = threshold.ratio
        fields["sample_max_value"] = threshold.max_value
    return fields


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
    kind = type(sampler).__name__
    if getattr(sampler, "levels", None) is not None:
        raise NelboError(
            f"the levels of {kind} have no place in a scheduler of diffusers: save it without them"
        )
    if not isinstance(sampler, DDPM | DDIM | Euler | Heun | DPMSolver):
        raise NelboError(
            f"{kind} has no place in a pipeline of diffusers: save it with a sampler of "
            "nelbo.samplers"
        )
    # What has no spacing of its own starts, as DDIM in diffusers, at the end of the chain.
    spacing = sampler.spacing or "trailing"
    spaced = {"timestep_spacing": spacing, "steps_offset": sampler.steps_offset}
    if isinstance(sampler, DDPM):
        return {"_class_name": "DDPMScheduler", "variance_type": _variance_type(model), **spaced}
    if isinstance(sampler, DDIM):
        return {
            "_class_name": "DDIMScheduler",
            **spaced,
            "set_alpha_to_one": sampler.set_alpha_to_one,
        }
    noise_levels = (
        sampler.kind_of_levels if isinstance(sampler, DPMSolver) else sampler.noise_levels
    )
    spaced["use_karras_sigmas"] = noise_levels == "karras"
    if isinstance(sampler, Euler | Heun):
        return {
            "_class_name": f"{kind}DiscreteScheduler",
            **spaced,
            "use_exponential_sigmas": noise_levels == "log_snr",
        }
    return {
        "_class_name": _DPM_SOLVER,
        **spaced,
        "use_lu_lambdas": noise_levels == "log_snr",
        "solver_order": sampler.order,
        "solver_type": sampler.solver_type,
        "algorithm_type": "sde-dpmsolver++" if sampler.stochastic else "dpmsolver++",
        "lower_order_final": sampler.lower_order_final,
        "euler_at_final": sampler.euler_at_final,
        "final_sigmas_type": "zero" if sampler.set_alpha_to_one else "sigma_min",
    }
