"""What the options of sampling ask for, as objects: the sampler, and the strength of guidance."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.commands.groups import EVERYWHERE, ConditionOptions, SamplerOptions
from nelbo.formats import Pipeline
from nelbo.networks.guidance import Guidance
from nelbo.samplers import SAMPLERS, Sampler
from nelbo.training.ranges import option

_NAMES = {class_name: name for name, class_name in SAMPLERS.items()}
# To check the other options of guidance by, where its scale is not yet known.
_SOME_GUIDANCE = 2.0


def build_sampler(
    options: SamplerOptions,
    pipeline: Pipeline,
    default: str | None = None,
    *,
    steps: int | None = None,
) -> Sampler | None:
    """The sampler, None for a model without a chain; what is not given is the scheduler's.

    Args:
        options: what was asked for.
        pipeline: whose chain to walk.
        default: name of the sampler where none is asked for; None is the scheduler's.
        steps: how many where no number is asked for.

    Raises:
        NelboError: an option that the sampler does not have, or more steps than the chain has
            levels.
    """
    steps = steps if options.steps is None else options.steps
    sampler: Any = pipeline.named_sampler(options.sampler or default, steps)
    own = set() if sampler is None else {field.name for field in fields(sampler)}
    asked = {name: getattr(options, name) for name in ("spacing", "eta", "order", "noise_levels")}
    given = {name: value for name, value in asked.items() if value is not None}
    for name in given:
        if name not in own:
            called = _NAMES.get(type(sampler).__name__, "of a model without a chain")
            raise NelboError(f"{option(name)} does not apply to the sampler {called}")
    if sampler is None:
        return None
    if options.spacing is not None and "noise_levels" in own:
        given.setdefault("noise_levels", "spaced")
    if {"spacing", "noise_levels"} & given.keys():
        given["levels"] = None  # of a default that has its own
    schedule = pipeline.schedule
    if steps is None and (sampler.steps or 0) > schedule.num_levels:
        given["steps"] = schedule.num_levels
    sampler = replace(sampler, **given)
    sampler.path(schedule)  # which checks that the chain has these levels
    return sampler


def guidance_of(options: ConditionOptions, usual: float = 1.0) -> Guidance:
    """The guidance asked for.

    Args:
        options: what was asked for.
        usual: its scale where none is asked for.

    Raises:
        NelboError: an option of guidance that is out of range, or given without any.
    """
    scale = usual if options.guidance is None else options.guidance
    if scale == 1.0:
        options.check_unguided()
    interval = None if options.guidance_interval == EVERYWHERE else options.guidance_interval
    return Guidance(scale, interval, options.guidance_rescale)


def check_guidance(options: ConditionOptions) -> None:
    """Raise `NelboError` for options of guidance that are out of range or need another."""
    guidance_of(options, _SOME_GUIDANCE)
