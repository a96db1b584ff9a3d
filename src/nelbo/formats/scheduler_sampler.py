"""The sampler of a scheduler config: its class and its spacing of the steps.

What diffusers does otherwise than the papers is set here: even strides of DDIM, half of the second
derivative of DPM-Solver's order three, and lower orders at the end of short walks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.formats.config_fields import ConfigFields
from nelbo.formats.scheduler_classes import SCHEDULERS
from nelbo.samplers import DDIM, DDPM, DPMSolver, Euler, Heun, Sampler
from nelbo.samplers.dpm_solver import SOLVER_TYPES
from nelbo.samplers.grid import SPACINGS

_DEFAULT_STEPS = 50
# Walks of fewer steps than this end with lower orders in diffusers.
_SHORT_WALK = 15

_CLASSES: dict[str, Any] = {
    "DDPMScheduler": DDPM,
    "DDIMScheduler": DDIM,
    "EulerDiscreteScheduler": Euler,
    "HeunDiscreteScheduler": Heun,
    "DPMSolverMultistepScheduler": DPMSolver,
}

# Fields of solvers that change the walk in ways that are not supported, with the value that leaves
# it alone.
_NEUTRAL: dict[str, object] = {
    "use_beta_sigmas": False,
    "sigma_min": None,
    "sigma_max": None,
    "interpolation_type": "linear",
    "lambda_min_clipped": -math.inf,
}

# What other classes call what DPM-Solver++ does, and diffusers takes their names for.
_ALIASES = {
    "solver_type": {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"},
    "algorithm_type": {"deis": "dpmsolver++"},
}


class _NoCounterpart(NelboError):
    """An option of a solver that nelbo has no sampler for; the chain is none the worse."""


def read_sampler(
    config: ConfigFields, steps: int | None = None, kind: type[Sampler] | None = None
) -> Sampler:
    """The sampler that a scheduler config describes, or another on its chain.

    Where nelbo has no such solver, or not with such an option, it is DDIM through the same levels,
    with a note.

    Args:
        config: with the fields of its class completed.
        steps: how many; None for all levels with DDPM and 50 otherwise, which is what pipelines of
            diffusers default to, and of another kind as many as it takes itself.
        kind: the class of the sampler; None is the one described. Any other visits its own levels,
            and ends where the one described does.

    Raises:
        NelboError: a field that is malformed.
    """
    name: str = config.fields["_class_name"]
    described = _CLASSES.get(SCHEDULERS[name].same_walk or name)
    if kind is not None and kind is not described:
        return _other(config, kind, described, steps)
    spaced = {
        "spacing": config.choice("timestep_spacing", {name: name for name in SPACINGS}),
        "steps_offset": config.integer("steps_offset", 0),
    }
    T = config.integer("num_train_timesteps", 1)
    if described is DDPM:
        return DDPM(steps, **spaced)
    if steps is None:
        steps = min(_DEFAULT_STEPS, T)
    if described is None:
        _note_substitute(config, f"nelbo has no {name}")
    elif described is not DDIM:
        try:
            return _solver(config, described, steps, spaced)
        except _NoCounterpart as error:
            _note_substitute(config, str(error).removeprefix(f"{config.file}: "))
    to_data = config.boolean("set_alpha_to_one")
    return DDIM(steps, set_alpha_to_one=to_data, even_stride=True, **spaced)


def sampler_fields(sampler: Sampler) -> dict[str, Any]:
    """The fields of a scheduler config that describe a sampler.

    Raises:
        NelboError: diffusers has no such sampler.
    """
    kind = type(sampler).__name__
    if getattr(sampler, "levels", None) is not None:
        raise NelboError(
            f"the levels of {kind} have no place in a scheduler of diffusers: save it without them"
        )
    name = next((name for name, known in _CLASSES.items() if known is type(sampler)), None)
    if name is None or not isinstance(sampler, DDPM | DDIM | Euler | DPMSolver):
        raise NelboError(
            f"{kind} has no place in a pipeline of diffusers: save it with a sampler of "
            "nelbo.samplers that diffusers has"
        )
    found: dict[str, Any] = {
        "_class_name": name,
        # What has no spacing of its own starts, as DDIM in diffusers, at the end of the chain.
        "timestep_spacing": sampler.kind_of_spacing,
        "steps_offset": sampler.steps_offset,
    }
    if isinstance(sampler, DDIM):
        found["set_alpha_to_one"] = sampler.set_alpha_to_one
    if isinstance(sampler, Euler | DPMSolver):
        in_log_snr = (
            "use_lu_lambdas" if isinstance(sampler, DPMSolver) else "use_exponential_sigmas"
        )
        found["use_karras_sigmas"] = sampler.kind_of_levels == "karras"
        found[in_log_snr] = sampler.kind_of_levels == "log_snr"
    if isinstance(sampler, DPMSolver):
        found |= {
            "solver_order": sampler.order,
            "solver_type": sampler.solver_type,
            "algorithm_type": "sde-dpmsolver++" if sampler.stochastic else "dpmsolver++",
            "lower_order_final": sampler.lower_orders_below > 0,
            "euler_at_final": sampler.euler_at_final,
            "final_sigmas_type": "zero" if sampler.set_alpha_to_one else "sigma_min",
        }
    return found


def _other(config: ConfigFields, kind: Any, described: Any, steps: int | None) -> Sampler:
    given: dict[str, Any] = {} if steps is None else {"steps": steps}
    ends = "set_alpha_to_one" in {field.name for field in fields(kind)}
    if ends and described in (DDIM, None):
        given["set_alpha_to_one"] = config.boolean("set_alpha_to_one")
    sampler: Sampler = kind(**given)
    return sampler


def _note_substitute(config: ConfigFields, why: str) -> None:
    warnings.warn(
        f"{config.file}: {why}, so DDIM walks the same chain in its place; --sampler has others",
        stacklevel=6,
    )


def _solver(
    config: ConfigFields, kind: Callable[..., Sampler], steps: int, spaced: dict[str, Any]
) -> Sampler:
    for field, neutral in _NEUTRAL.items():
        if config.fields.get(field, neutral) != neutral:
            raise _unmatched(config, field, f"{neutral}, all that nelbo has a sampler for")
    is_dpm_solver = kind is DPMSolver
    spaced = {**spaced, "noise_levels": _noise_levels(config, is_dpm_solver)}
    goes_to_data = _option(config, "final_sigmas_type", {"zero": True, "sigma_min": False})
    if not is_dpm_solver:
        if not goes_to_data:
            name = config.fields["_class_name"]
            raise _unmatched(config, "final_sigmas_type", f"zero for {name}")
        return kind(steps, **spaced)
    order = config.integer("solver_order", 1)
    kinds = {"dpmsolver++": False, "sde-dpmsolver++": True}
    stochastic = _option(config, "algorithm_type", kinds)
    if order not in ((1, 2) if stochastic else (1, 2, 3)):
        raise _unmatched(config, "solver_order", "1 or 2" if stochastic else "1, 2 or 3")
    return DPMSolver(
        steps,
        order,
        stochastic=stochastic,
        solver_type=_option(config, "solver_type", {name: name for name in SOLVER_TYPES}),
        lower_orders_below=_SHORT_WALK if config.boolean("lower_order_final") else 0,
        euler_at_final=config.boolean("euler_at_final"),
        set_alpha_to_one=goes_to_data,
        halve_second_derivative=order == 3,
        **spaced,
    )


def _noise_levels(config: ConfigFields, is_dpm_solver: bool) -> str:
    if config.boolean("use_karras_sigmas"):
        return "karras"
    # Exponential sigmas and Lu's lambdas are the same noise levels, but DPM-Solver++ calls the
    # network at the level below each of the former and at the nearest of the latter.
    if is_dpm_solver and config.boolean("use_exponential_sigmas"):
        raise _unmatched(config, "use_exponential_sigmas", "false, or use_lu_lambdas in its place")
    field = "use_lu_lambdas" if is_dpm_solver else "use_exponential_sigmas"
    return "log_snr" if config.boolean(field) else "spaced"


def _option(config: ConfigFields, field: str, allowed: Mapping[str, Any]) -> Any:
    """What an option of a solver stands for.

    Raises:
        _NoCounterpart: one that nelbo has no sampler for.
        NelboError: no name of one.
    """
    value = config.fields.get(field)
    if not isinstance(value, str):
        raise config.wrong(field, f"one of {', '.join(allowed)}")
    value = _ALIASES.get(field, {}).get(value, value)
    if value not in allowed:
        raise _unmatched(config, field, f"one of {', '.join(allowed)}")
    return allowed[value]


def _unmatched(config: ConfigFields, field: str, expected: str) -> _NoCounterpart:
    return _NoCounterpart(str(config.wrong(field, expected)))
