"""The scheduler classes of diffusers that define a chain: which fields each has, and its defaults.

A pipeline's model_index.json decides the class, and the class which fields of the file count: what
it has no parameter for has no effect, and a field that the file lacks has the class's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

# What diffusers takes a missing field for, where a class has no default of its own.
_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "timestep_spacing": "linspace",
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "rescale_betas_zero_snr": False,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_lu_lambdas": False,
    "solver_order": 2,
    "solver_type": "midpoint",
    "algorithm_type": "dpmsolver++",
    "lower_order_final": True,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
}

# Fields that change the chain in ways that are not supported, with the value that leaves it alone.
_NEUTRAL: dict[str, object] = {
    "timestep_type": "discrete",
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
}

# Groups of fields that some classes have.
_CLIP = ("clip_sample", "clip_sample_range")
_THRESHOLD = ("thresholding", "dynamic_thresholding_ratio", "sample_max_value")
_ZERO_SNR = ("rescale_betas_zero_snr",)
_SPACING = ("timestep_spacing", "steps_offset")
_FLOW = ("use_flow_sigmas", "use_dynamic_shifting")
_GROUPS = (_CLIP, _THRESHOLD, _ZERO_SNR, _SPACING, _FLOW)


@dataclass(frozen=True)
class SchedulerClass:
    """What one class of diffusers makes of a scheduler config.

    Attributes:
        has: the fields that it has of those that not every class has.
        own_defaults: its defaults, where they differ from those of most.
        same_walk: the class whose walk it takes, for parallel variants.
    """

    has: frozenset[str]
    own_defaults: dict[str, Any] = field(default_factory=dict)
    same_walk: str | None = None

    def complete(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a file that count, with the defaults for those that it lacks."""
        some = {name for group in _GROUPS for name in group} | {"timestep_type"}
        counted = {
            name: value
            for name, value in found.items()
            if value is not None and (name in self.has or name not in some)
        }
        return _DEFAULTS | self.own_defaults | counted

    def unsupported(self, found: Mapping[str, Any]) -> str | None:
        """A field that changes the chain in a way that is not supported, if there is one."""
        for name, neutral in _NEUTRAL.items():
            if name in self.has and found.get(name) not in (None, neutral):
                return name
        return None


def _class(*groups: tuple[str, ...], defaults: Mapping[str, Any] = {}) -> SchedulerClass:
    return SchedulerClass(frozenset(name for group in groups for name in group), dict(defaults))


_LEADING: dict[str, Any] = {"timestep_spacing": "leading"}
_STABLE_BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012}
_FIRST = _class(
    *(_CLIP, _THRESHOLD, _ZERO_SNR, _SPACING), defaults={"clip_sample": True, **_LEADING}
)
_FEW_STEPS = _class(
    *(_CLIP, _THRESHOLD, _ZERO_SNR, _SPACING),
    defaults={"beta_schedule": "scaled_linear", **_STABLE_BETAS, **_LEADING},
)

SCHEDULERS: dict[str, SchedulerClass] = {
    "DDPMScheduler": _FIRST,
    "DDPMParallelScheduler": replace(_FIRST, same_walk="DDPMScheduler"),
    "DDIMScheduler": _FIRST,
    "DDIMParallelScheduler": replace(_FIRST, same_walk="DDIMScheduler"),
    "DDIMInverseScheduler": _class(
        *(_CLIP, _ZERO_SNR, _SPACING), defaults={"clip_sample": True, **_LEADING}
    ),
    "PNDMScheduler": _class(_SPACING, defaults={"set_alpha_to_one": False, **_LEADING}),
    "LMSDiscreteScheduler": _class(_SPACING),
    "EulerDiscreteScheduler": _class(_ZERO_SNR, _SPACING, ("timestep_type",)),
    "EulerAncestralDiscreteScheduler": _class(_ZERO_SNR, _SPACING),
    "HeunDiscreteScheduler": _class(_CLIP, _SPACING, defaults=_STABLE_BETAS),
    "KDPM2DiscreteScheduler": _class(_SPACING, defaults=_STABLE_BETAS),
    "KDPM2AncestralDiscreteScheduler": _class(_SPACING, defaults=_STABLE_BETAS),
    "DPMSolverMultistepScheduler": _class(_THRESHOLD, _ZERO_SNR, _SPACING, _FLOW),
    "DPMSolverMultistepInverseScheduler": _class(_THRESHOLD, _SPACING, _FLOW),
    "DPMSolverSinglestepScheduler": _class(_THRESHOLD, _FLOW),
    "DPMSolverSDEScheduler": _class(_SPACING, defaults=_STABLE_BETAS),
    "DEISMultistepScheduler": _class(_THRESHOLD, _SPACING, _FLOW),
    "UniPCMultistepScheduler": _class(_THRESHOLD, _ZERO_SNR, _SPACING, _FLOW),
    "SASolverScheduler": _class(_THRESHOLD, _SPACING, _FLOW),
    "LCMScheduler": _FEW_STEPS,
    "TCDScheduler": _FEW_STEPS,
}
# The classes that nelbo writes which apply these fields.
CLIPPING = ("DDPMScheduler", "DDIMScheduler", "HeunDiscreteScheduler")
THRESHOLDING = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler")
