"""A chain on disk: the scheduler of a pipeline, with additions in nelbo.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nelbo.base.errors import NelboError, explained
from nelbo.base.files import write_json
from nelbo.chain.data_space import DataSpace
from nelbo.diffusion import Diffusion
from nelbo.diffusion.prediction import PARAMETERIZATIONS
from nelbo.diffusion.profile import PROFILE_FILE
from nelbo.diffusion.thresholding import StaticThreshold
from nelbo.diffusion.variance import VARIANCES
from nelbo.formats.data_space import data_config, read_shape
from nelbo.formats.flow_scheduler import flow_notes, own_prediction
from nelbo.formats.model_directory import NELBO_FILE
from nelbo.formats.pipeline import Pipeline
from nelbo.formats.scheduler import (
    SCHEDULER_FILE,
    WRITERS,
    SchedulerConfig,
    own_levels,
    scheduler_config,
)
from nelbo.formats.scheduler_classes import CLIPPING
from nelbo.samplers import Sampler
from nelbo.version import __version__

# Pipelines that walk with the first half of a network's channels: the other half is a learned
# variance, of which their scheduler knows nothing.
SPLITTING = ("DiTPipeline", "PixArtAlphaPipeline")


def read_chain(
    pipeline: Pipeline,
    scheduler: SchedulerConfig,
    network: Any,
    data: DataSpace,
) -> Diffusion:
    """The diffusion model of a pipeline, from its parts; the network has a config and a folder.

    Raises:
        NelboError: the network's channels or the level profile do not fit the chain.
    """
    shape = read_shape(pipeline, network.config.shape)
    options = scheduler.chain_options
    if pipeline.index.class_name in SPLITTING and network.config.out_channels == 2 * shape[0]:
        options["variance"] = "learned_range"
    options |= _own_options(pipeline)
    multiple = 2 if options["variance"] == "learned_range" else 1
    if options["variance"] == "analytic" and network.config.out_channels == 2 * shape[0]:
        multiple = 2  # a learned variance that is not used
    for field, expected in (("in_channels", shape[0]), ("out_channels", shape[0] * multiple)):
        found = getattr(network.config, field)
        if found != expected:
            raise NelboError(
                f"{pipeline.path}/{network.folder}/config.json: {field} is {found}, expected "
                f"{expected} for {shape[0]} channels with variance_type {options['variance']} of "
                f"{SCHEDULER_FILE}"
            )
    schedule, profile = pipeline.schedule, pipeline.profile
    with explained(pipeline.path):
        return Diffusion(network, schedule, data=data, shape=shape, profile=profile, **options)


def check_chain(model: Diffusion) -> None:
    """Raise `NelboError` for a chain that the format cannot hold."""
    if not torch.equal(model.schedule.network_times[1:], torch.arange(model.num_levels)):
        raise NelboError("a respaced chain cannot be saved: save the full one and respace it")
    if model.prediction not in PARAMETERIZATIONS:
        raise NelboError(
            f"a chain with prediction={model.prediction!r} cannot be saved: the format holds "
            + ", ".join(PARAMETERIZATIONS)
        )


def write_chain(
    model: Diffusion,
    directory: Path,
    sampler: Sampler | None,
    notes: Mapping[str, Any],
    usual: Sampler,
) -> str:
    """Write the scheduler and nelbo.json; returns the class of the scheduler.

    Args:
        model: of the chain.
        directory: where to.
        sampler: what the scheduler describes; None for the usual one.
        notes: further entries of nelbo.json.
        usual: that of a chain whose scheduler has no usual one of its own.

    Raises:
        NelboError: diffusers has no such sampler.
    """
    scheduler = scheduler_config(model, sampler, usual)
    write_json(directory / "scheduler" / SCHEDULER_FILE, scheduler)
    own: dict[str, Any] = {
        "nelbo_version": __version__,
        "data": data_config(model.data),
        "shape": None if model.shape is None else list(model.shape),
    }
    if scheduler.get("variance_type") != model.variance:
        own["variance"] = model.variance
    own |= flow_notes(model)
    if type(model.parameterization) in WRITERS:  # whose classes have no field for betas
        own |= own_levels(scheduler, model.schedule)
    write_profile(model, directory)
    if scheduler["_class_name"] not in CLIPPING:
        own["clip_sample"] = model.threshold == StaticThreshold()
    write_json(directory / NELBO_FILE, own | dict(notes))
    return scheduler["_class_name"]


def write_profile(model: Diffusion, directory: Path) -> None:
    """Write the level profile of a chain; without one, remove that of an earlier chain."""
    if model.profile is None:
        (directory / PROFILE_FILE).unlink(missing_ok=True)
    else:
        model.profile.save(directory / PROFILE_FILE)


def _own_options(pipeline: Pipeline) -> dict[str, Any]:
    # Options that the class of the scheduler has no field for; none has a name for "analytic".
    own, options = pipeline.own_fields, own_prediction(pipeline)
    if "variance" in own.fields:
        options["variance"] = own.choice("variance", {name: name for name in VARIANCES})
    if "clip_sample" in own.fields:
        options["clip_sample"] = own.boolean("clip_sample")
    return options
