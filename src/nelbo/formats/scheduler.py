"""Scheduler configs: the chain and the sampler in one file, as diffusers keeps them.

The chain is the betas, what the network predicts and the reverse variance; every scheduler class
describes it alike. The sampler is the class itself and its spacing of the steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from nelbo.base.errors import NelboError, explained
from nelbo.base.files import read_json
from nelbo.diffusion import Diffusion, DynamicThreshold, NoiseSchedule, StaticThreshold
from nelbo.diffusion.prediction import PARAMETERIZATIONS, Parameterization
from nelbo.diffusion.thresholding import Threshold
from nelbo.diffusion.variance import analytic_variance
from nelbo.formats.config_fields import ConfigFields
from nelbo.formats.scheduler_classes import CLIPPING, SCHEDULERS, THRESHOLDING
from nelbo.formats.scheduler_sampler import read_sampler, sampler_fields
from nelbo.networks.pretrained import DIFFUSERS_VERSION
from nelbo.samplers import DDPM, Euler, Sampler

SCHEDULER_FILE = "scheduler_config.json"
# Of a chain whose levels its scheduler has no fields for, nelbo.json holds β_1, ..., β_T, or of
# flow matching their number.
BETAS, CHAIN_LEVELS = "betas", "chain_levels"

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

# What a pipeline of diffusers insists on, whatever the file holds.
PIPELINE_FIELDS: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"clip_sample": False, "steps_offset": 1},
    "StableDiffusionImg2ImgPipeline": {"clip_sample": False, "steps_offset": 1},
    "StableDiffusionInpaintPipeline": {"steps_offset": 1},
}


@dataclass(frozen=True)
class SchedulerConfig(ConfigFields):
    """A scheduler config: the chain and the sampler in one file."""

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
        if not isinstance(name, str) or name not in READERS:
            raise NelboError(
                f"{file}: _class_name is {name!r}, expected one of {', '.join(READERS)}"
            )
        reader = READERS[name]
        on_flow = bool(found.get("use_flow_sigmas"))
        if on_flow:
            reader = FLOW_READERS.get(name, reader)
        if (field := reader.unsupported(name, found)) is not None:
            beside = " with use_flow_sigmas=True" if on_flow and field != "use_flow_sigmas" else ""
            raise NelboError(f"{file}: {field}={found.get(field)!r}{beside} is not supported")
        fields = reader.complete(name, found) | {"_class_name": name} | dict(overrides or {})
        return reader(file, fields)

    @classmethod
    def complete(cls, name: str, found: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a file that count for a class, with its defaults for those it lacks."""
        return SCHEDULERS[name].complete(found)

    @classmethod
    def unsupported(cls, name: str, found: Mapping[str, Any]) -> str | None:
        """A field that changes the chain in a way that is not supported, if there is one."""
        return SCHEDULERS[name].unsupported(found)

    @property
    def whole_times(self) -> bool:
        """Whether it calls a velocity with whole numbers for times."""
        return False

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise levels of the chain."""
        schedule = self._schedule_as_trained
        if self.boolean("rescale_betas_zero_snr"):
            return schedule.with_zero_terminal_snr()
        return schedule

    @property
    def _schedule_as_trained(self) -> NoiseSchedule:
        T = self.integer("num_train_timesteps", 1)
        trained = self.fields.get("trained_betas")
        if trained is not None:
            return self._trained_schedule(trained, T)
        build = self.choice("beta_schedule", _SCHEDULES)
        ends = self.number("beta_start"), self.number("beta_end")
        with explained(self.file, ValueError):
            return build(T, *ends)

    @property
    def chain_options(self) -> dict[str, Any]:
        """The options of `Diffusion`: prediction, variance, clip_sample and thresholding."""
        if self.boolean("rescale_betas_zero_snr") and self.fields["prediction_type"] == "epsilon":
            raise self.wrong(
                "prediction_type",
                "v_prediction or sample with rescale_betas_zero_snr, which leaves x_0 undetermined "
                "by the noise at the last level",
            )
        predictions = {name: name for name in PARAMETERIZATIONS}
        return {
            "prediction": self.choice("prediction_type", predictions),
            "variance": self.choice("variance_type", _VARIANCES),
            "clip_sample": self.boolean("clip_sample"),
            "thresholding": self._thresholding(),
        }

    def sampler(self, steps: int | None = None, kind: type[Sampler] | None = None) -> Sampler:
        """The sampler that the file describes, or another on the chain; see `read_sampler`."""
        return read_sampler(self, steps, kind)

    def _thresholding(self) -> Threshold | None:
        if self.boolean("thresholding"):
            ratio, most = self.number("dynamic_thresholding_ratio"), self.number("sample_max_value")
            with explained(self.file):
                return DynamicThreshold(ratio, most)
        if not self.boolean("clip_sample") or self.number("clip_sample_range") == 1:
            return None
        with explained(f"{self.file}: clip_sample_range"):
            return StaticThreshold(self.number("clip_sample_range"))

    def _trained_schedule(self, betas: Any, T: int) -> NoiseSchedule:
        with explained(f"{self.file}: trained_betas", TypeError, ValueError):
            schedule = NoiseSchedule.from_betas(betas)
        if schedule.num_levels != T:
            raise NelboError(
                f"{self.file}: trained_betas has {schedule.num_levels} numbers, expected {T}, that "
                "is num_train_timesteps"
            )
        return schedule


class ContinuousScheduler(SchedulerConfig):
    """A scheduler of a network of continuous time, whose chain is walked by Euler's method.

    Attributes:
        defaults: of the class, for the fields that a file lacks.
    """

    defaults: ClassVar[Mapping[str, Any]]

    @classmethod
    def complete(cls, name: str, found: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a file, with the defaults of the class for those that it lacks."""
        given = {name: value for name, value in found.items() if value is not None}
        return {**cls.defaults, **given}

    def sampler(self, steps: int | None = None, kind: type[Sampler] | None = None) -> Sampler:
        """Euler's method through the noise levels of the class, or another sampler."""
        if kind is not None and kind is not Euler:
            return kind() if steps is None else kind(steps)  # type: ignore[call-arg]
        if kind is None and (what := self.unmatched) is not None:
            warnings.warn(
                f"{self.file}: nelbo has no {what}, so Euler's method walks the same chain in its "
                "place; --sampler has others",
                stacklevel=4,
            )
        return self.walk(steps)

    @property
    def unmatched(self) -> str | None:
        """What of the walk nelbo has no sampler for, if anything."""
        return None

    def walk(self, steps: int | None) -> Euler:
        """Euler's method through the noise levels of the class."""
        raise NotImplementedError


# What reads the config of each class. A module of a scheduler with a chain of its own adds it here,
# and what writes the config of its prediction below.
READERS: dict[str, type[SchedulerConfig]] = dict.fromkeys(SCHEDULERS, SchedulerConfig)
# What reads the config of a solver that walks the chain of a velocity.
FLOW_READERS: dict[str, type[SchedulerConfig]] = {}
WRITERS: dict[type[Parameterization], Callable[[Diffusion, Sampler | None], dict[str, Any]]] = {}


def own_levels(fields: Mapping[str, Any], schedule: NoiseSchedule) -> dict[str, Any]:
    """The entry of nelbo.json for levels that a scheduler config has no fields for."""
    reader = READERS[fields["_class_name"]]
    fields = reader.complete(fields["_class_name"], fields)
    for own in ({}, {CHAIN_LEVELS: schedule.num_levels}):
        betas = reader(Path(SCHEDULER_FILE), {**fields, **own}).schedule.betas
        same = betas.shape == schedule.betas.shape
        if same and torch.allclose(betas, schedule.betas, rtol=1e-9, atol=0):
            return own
    return {BETAS: schedule.betas[1:].tolist()}


def scheduler_config(
    model: Diffusion, sampler: Sampler | None, usual: Sampler | None = None
) -> dict[str, Any]:
    """The contents of a scheduler config that describes a chain and a sampler.

    Args:
        model: of the chain.
        sampler: what to describe; None for the usual one.
        usual: that of a chain whose scheduler has no usual one of its own.

    Raises:
        NelboError: diffusers has no such sampler, or none with this thresholding.
    """
    if (write := WRITERS.get(type(model.parameterization))) is not None:
        return write(model, sampler)
    sampler = sampler or usual or DDPM()
    schedule = model.schedule
    named = schedule.config is not None and "beta_schedule" in schedule.config
    chain = (named and schedule.config) or {
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
        **sampler_fields(sampler),
    }
    if fields["_class_name"] == "DDPMScheduler":
        fields["variance_type"] = _variance_type(model)
    # What it cannot hold of the plain clip, nelbo.json does.
    dynamic = isinstance(model.threshold, DynamicThreshold)
    plain = model.threshold in (None, StaticThreshold())
    if not plain and fields["_class_name"] not in (THRESHOLDING if dynamic else CLIPPING):
        raise NelboError(
            f"the {fields['_class_name']} of diffusers has no {type(model.threshold).__name__}: "
            "save the model with DDPM or DDIM"
        )
    return fields


def _threshold_fields(model: Diffusion) -> dict[str, Any]:
    threshold = model.threshold
    fields: dict[str, Any] = {
        "clip_sample": isinstance(threshold, StaticThreshold),
        "clip_sample_range": getattr(threshold, "range", 1.0),
        "thresholding": isinstance(threshold, DynamicThreshold),
    }
    if isinstance(threshold, DynamicThreshold):
        fields["dynamic_thresholding_ratio"] = threshold.ratio
        fields["sample_max_value"] = threshold.max_value
    return fields


def _variance_type(model: Diffusion) -> str:
    """diffusers' name of the reverse variance; for an analytic one, what comes closest.

    Where the network has channels for a learned variance, the pipeline must declare them.
    """
    if model.variance != "analytic":
        return model.variance
    config: Any = getattr(model.network, "config", None)
    if config is not None and config.out_channels == 2 * config.in_channels:
        return "learned_range"
    own, schedule = analytic_variance(model.schedule, model.profile)[2:], model.schedule
    fixed = {"fixed_small": schedule.posterior_variance[2:], "fixed_large": schedule.betas[2:]}
    return min(fixed, key=lambda name: float((fixed[name] / own).log().abs().sum()))
