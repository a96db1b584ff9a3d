"""Pipelines on disk, as diffusers writes and reads them.

A directory holds `model_index.json`, a folder for each part (`unet/`, `scheduler/`), and
`nelbo.json` for what diffusers has no place for: the data's levels and the shape of an example.
Without it, as in a pipeline that diffusers trained, 256 levels are assumed.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nelbo.diffusion import Continuous, Diffusion, NoiseSchedule, Pixels
from nelbo.diffusion.data_space import DataSpace
from nelbo.errors import NelboError
from nelbo.networks import UNet
from nelbo.networks.files import atomic_file, locate, read_json
from nelbo.networks.pretrained import DIFFUSERS_VERSION
from nelbo.version import __version__

INDEX_FILE = "model_index.json"
SCHEDULER_FILE = "scheduler_config.json"
NELBO_FILE = "nelbo.json"

PIPELINES = ("DDPMPipeline", "DDIMPipeline")
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")
ASSUMED_LEVELS = 256

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
_NEUTRAL = {"rescale_betas_zero_snr": False, "thresholding": False}


def load(path: str | os.PathLike[str]) -> Diffusion:
    """A model from a run or pipeline directory, or from the Hugging Face Hub.

    Raises:
        NelboError: a file is missing or damaged, or says something that nelbo has no model for;
            the message names the file and the field.
    """
    index_file = locate(path, None, INDEX_FILE)
    index = read_json(index_file)
    name = index.get("_class_name")
    if name not in PIPELINES:
        raise NelboError(
            f"{index_file}: _class_name is {name!r}, expected one of {', '.join(PIPELINES)}"
        )
    schedule, options = _read_scheduler(locate(path, "scheduler", SCHEDULER_FILE))
    network = UNet.from_pretrained(path, subfolder="unet")
    data, shape = _read_data_space(path, network)
    expected = shape[0] * (2 if options["variance"] == "learned_range" else 1)
    if network.config.out_channels != expected:
        raise NelboError(
            f"{path}/unet/config.json: out_channels is {network.config.out_channels}, expected "
            f"{expected} for {shape[0]} channels with variance_type {options['variance']} of "
            f"{SCHEDULER_FILE}"
        )
    return Diffusion(network, schedule, data=data, shape=shape, **options).eval()


def save(
    model: Diffusion, path: str | os.PathLike[str], *, notes: Mapping[str, Any] | None = None
) -> None:
    """Write a model as a pipeline directory that diffusers reads; each file appears whole or not.

    Args:
        model: a diffusion model whose network is a `UNet`.
        path: the directory, made if it does not exist.
        notes: what else to keep in nelbo.json, such as the data and settings of a run.

    Raises:
        NelboError: a network or a respaced chain, which the format has no place for.
    """
    directory = Path(path)
    network = model.network
    if not isinstance(network, UNet):
        raise NelboError(f"only a UNet can be saved, found {type(network).__name__}")
    if not torch.equal(model.schedule.network_times[1:], torch.arange(model.num_levels)):
        raise NelboError("a respaced chain cannot be saved: save the full one and respace it")
    network.save_pretrained(directory / "unet")
    write_json(directory / "scheduler" / SCHEDULER_FILE, _scheduler_config(model))
    own = {
        "nelbo_version": __version__,
        "data": _data_config(model.data),
        "shape": None if model.shape is None else list(model.shape),
    }
    write_json(directory / NELBO_FILE, own | dict(notes or {}))
    # The index comes last: a directory that has one is complete.
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    write_json(directory / INDEX_FILE, index)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _scheduler_config(model: Diffusion) -> dict[str, Any]:
    schedule = model.schedule
    chain = schedule.config or {
        "beta_schedule": "linear",
        "trained_betas": schedule.betas[1:].tolist(),
    }
    return {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": schedule.num_levels,
        **chain,
        "prediction_type": model.prediction,
        "variance_type": model.variance,
        "clip_sample": model.clip_sample,
        "clip_sample_range": 1.0,
        "timestep_spacing": "leading",
        "steps_offset": 0,
        **_NEUTRAL,
    }


def _read_scheduler(path: Path) -> tuple[NoiseSchedule, dict[str, Any]]:
    config = read_json(path)

    def choose(field: str, default: Any, allowed: Mapping[str, Any]) -> Any:
        value = config.get(field, default)
        if value not in allowed:
            raise NelboError(f"{path}: {field} is {value!r}, expected one of {', '.join(allowed)}")
        return allowed[value]

    choose("_class_name", None, {name: name for name in SCHEDULERS})
    for field, neutral in _NEUTRAL.items():
        if config.get(field, neutral) != neutral:
            raise NelboError(f"{path}: {field}={config[field]!r} is not supported")
    clip = bool(config.get("clip_sample", True))
    if clip and config.get("clip_sample_range", 1.0) != 1.0:
        raise NelboError(
            f"{path}: clip_sample_range is {config['clip_sample_range']!r}, only 1.0 is supported"
        )
    predictions = {name: name for name in ("epsilon", "sample", "v_prediction")}
    options = {
        "prediction": choose("prediction_type", "epsilon", predictions),
        "variance": choose("variance_type", "fixed_small", _VARIANCES),
        "clip_sample": clip,
    }
    build = choose("beta_schedule", "linear", _SCHEDULES)
    trained = config.get("trained_betas")
    if trained is not None:
        try:
            return NoiseSchedule.from_betas(trained), options
        except (TypeError, ValueError) as error:
            raise NelboError(f"{path}: trained_betas: {error}") from error
    try:
        T = int(config.get("num_train_timesteps", 1000))
        ends = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
        return build(T, *ends), options
    except (TypeError, ValueError) as error:
        raise NelboError(f"{path}: {error}") from error


def _data_config(data: DataSpace) -> dict[str, Any]:
    if isinstance(data, Pixels):
        return {"kind": "pixels", "levels": data.levels}
    return {"kind": "continuous"}


def _read_data_space(
    path: str | os.PathLike[str], network: UNet
) -> tuple[DataSpace, tuple[int, int, int]]:
    own = _read_own(path)
    size = network.config.sample_size
    default = None
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        default = [network.config.in_channels, height, width]
    if own is None:
        warnings.warn(
            f"{path} does not say how many levels its pixels have: assuming {ASSUMED_LEVELS}",
            stacklevel=3,
        )
        own = {"data": {"kind": "pixels", "levels": ASSUMED_LEVELS}}
    file = f"{path}/{NELBO_FILE}"
    shape = own.get("shape") or default
    if not (isinstance(shape, list) and len(shape) == 3 and all(_positive(n) for n in shape)):
        raise NelboError(f"{file}: shape is {shape!r}, expected [channels, height, width]")
    data = own.get("data")
    if isinstance(data, dict) and data.get("kind") == "continuous":
        return Continuous(), tuple(shape)
    if isinstance(data, dict) and data.get("kind") == "pixels" and _positive(data.get("levels")):
        return Pixels(data["levels"]), tuple(shape)
    raise NelboError(
        f'{file}: data is {data!r}, expected {{"kind": "pixels", "levels": L}} or '
        '{"kind": "continuous"}'
    )


def _read_own(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    try:
        file = locate(path, None, NELBO_FILE)
    except NelboError:
        return None
    return read_json(file)


def _positive(value: Any) -> bool:
    return isinstance(value, int) and value > 0
