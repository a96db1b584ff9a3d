"""Load and save whole pipelines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nelbo.diffusers_format.data_space import data_config, read_data_space, read_shape
from nelbo.diffusers_format.files import NELBO_FILE, read_index, read_own, write_index, write_json
from nelbo.diffusers_format.scheduler import SCHEDULER_FILE, SchedulerConfig, scheduler_config
from nelbo.diffusion import Diffusion
from nelbo.errors import NelboError
from nelbo.networks import UNet
from nelbo.networks.files import locate
from nelbo.samplers import DDPM, Sampler
from nelbo.version import __version__

PIPELINES = ("DDPMPipeline", "DDIMPipeline")


def load(path: str | os.PathLike[str]) -> Diffusion:
    """A model from a run or pipeline directory, or from the Hugging Face Hub.

    Raises:
        NelboError: a file is missing or damaged, or says something that nelbo has no model for;
            the message names the file and the field.
    """
    _read_index(path)
    scheduler = _read_scheduler(path)
    schedule, options = scheduler.schedule, scheduler.chain_options
    # Schedulers other than DDPM's have no field for it.
    options["variance"] = (read_own(path) or {}).get("variance", options["variance"])
    network = UNet.from_pretrained(path, subfolder="unet")
    shape = read_shape(path, network)
    expected = shape[0] * (2 if options["variance"] == "learned_range" else 1)
    if network.config.out_channels != expected:
        raise NelboError(
            f"{path}/unet/config.json: out_channels is {network.config.out_channels}, expected "
            f"{expected} for {shape[0]} channels with variance_type {options['variance']} of "
            f"{SCHEDULER_FILE}"
        )
    data = read_data_space(path)
    return Diffusion(network, schedule, data=data, shape=shape, **options).eval()


def load_sampler(path: str | os.PathLike[str], steps: int | None = None) -> Sampler:
    """The sampler that the scheduler of a pipeline describes.

    Args:
        path: a run or pipeline directory, or a Hub id.
        steps: number of network calls; None for all levels with DDPM and 50 with DDIM, which is
            what pipelines of diffusers default to.

    Raises:
        NelboError: a field of the scheduler that nelbo has no counterpart for; where it is only
            the class of the solver, the sampler is DDIM, with a note.
    """
    _read_index(path)
    return _read_scheduler(path).sampler(steps)


def save(
    model: Diffusion,
    path: str | os.PathLike[str],
    *,
    sampler: Sampler | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a model as a pipeline directory that diffusers reads; each file appears whole or not.

    Args:
        model: a diffusion model whose network is a `UNet`.
        path: the directory, made if it does not exist.
        sampler: what the scheduler is to describe, by default DDPM.
        notes: what else to keep in nelbo.json, such as the data and settings of a run.

    Raises:
        NelboError: a network, sampler or respaced chain, which the format has no place for.
    """
    directory = Path(path)
    network = model.network
    if not isinstance(network, UNet):
        raise NelboError(f"only a UNet can be saved, found {type(network).__name__}")
    if not torch.equal(model.schedule.network_times[1:], torch.arange(model.num_levels)):
        raise NelboError("a respaced chain cannot be saved: save the full one and respace it")
    scheduler = scheduler_config(model, sampler or DDPM())
    network.save_pretrained(directory / "unet")
    write_json(directory / "scheduler" / SCHEDULER_FILE, scheduler)
    own = {
        "nelbo_version": __version__,
        "data": data_config(model.data),
        "shape": None if model.shape is None else list(model.shape),
    }
    if "variance_type" not in scheduler:
        own["variance"] = model.variance
    write_json(directory / NELBO_FILE, own | dict(notes or {}))
    kind = scheduler["_class_name"]
    parts = {"scheduler": ["diffusers", kind], "unet": ["diffusers", "UNet2DModel"]}
    write_index(directory, kind.replace("Scheduler", "Pipeline"), parts)


def _read_index(path: str | os.PathLike[str]) -> None:
    index = read_index(path)
    if index.class_name not in PIPELINES:
        raise NelboError(
            f"{index.file}: _class_name is {index.class_name!r}, expected one of "
            f"{', '.join(PIPELINES)}"
        )


def _read_scheduler(path: str | os.PathLike[str]) -> SchedulerConfig:
    return SchedulerConfig.read(locate(path, "scheduler", SCHEDULER_FILE))
