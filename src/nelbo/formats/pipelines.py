"""Load and save whole pipelines."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import singledispatch
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.chain.model import Model
from nelbo.diffusion import Diffusion, NoiseSchedule
from nelbo.families import FAMILIES, Family
from nelbo.formats import latent
from nelbo.formats.chain import read_scheduler
from nelbo.formats.family import load_family, save_family
from nelbo.formats.files import PipelineIndex, read_index, read_own
from nelbo.formats.model_directory import resolve
from nelbo.formats.pixel import load_pixel, save_pixel
from nelbo.latent import LatentDiffusion
from nelbo.networks.finite import check_finite_weights
from nelbo.samplers import DDPM, Sampler, default_sampler
from nelbo.samplers.one_call import OneCall

_LOADERS: dict[str, Callable[[str | os.PathLike[str], PipelineIndex], Model]] = {
    "DDPMPipeline": load_pixel,
    "DDIMPipeline": load_pixel,
    **dict.fromkeys(latent.PIPELINES, latent.load_latent),
}


def load(path: str | os.PathLike[str]) -> Model:
    """A model from a run or pipeline directory, or from the Hugging Face Hub.

    The name of a checkpoint that ships with the package stands for its directory.

    Returns:
        A `Diffusion` for pipelines of pixels (DDPMPipeline, DDIMPipeline), a `LatentDiffusion` for
        LDMPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline and
        StableDiffusionControlNetPipeline, and those that edit pictures with the parts of one;
        the model of a family of `nelbo.families` that `save` wrote.

    Raises:
        NelboError: a file is missing, damaged or unsupported; the message names the file and the
            field.
        MissingExtraError: a pipeline with a text encoder, without transformers installed.
    """
    path = resolve(path)
    index = read_pipeline(path)
    return _loader(index)(path, index)


def is_of_latents(index: PipelineIndex) -> bool:
    """Whether `load` gives a `LatentDiffusion`."""
    return _loader(index) is latent.load_latent


def has_chain(index: PipelineIndex) -> bool:
    """Whether the model is of a chain, which a scheduler describes."""
    return _loader(index) is not load_family


def load_sampler(
    path: str | os.PathLike[str],
    steps: int | None = None,
    *,
    kind: type[Sampler] | None = None,
) -> Sampler:
    """The sampler that the scheduler of a pipeline describes, or another for its chain.

    Args:
        path: a run or pipeline directory, the name of a checkpoint that ships, or a Hub id.
        steps: number of network calls; None for all levels with DDPM and 50 with DDIM, which is
            what pipelines of diffusers default to.
        kind: the class of the sampler; None is the one described. One of another class visits its
            own levels, which start where the noise is.

    Raises:
        NelboError: an unsupported field of the scheduler that changes the chain; for an
            unsupported solver the sampler is DDIM, with a note.
    """
    path = resolve(path)
    index = read_pipeline(path)
    if not has_chain(index):
        raise NelboError(f"{path} is a {index.class_name}, which has no chain for a sampler")
    sampler = read_scheduler(path, index).sampler(steps, kind)
    if isinstance(sampler, DDPM) and sampler.spacing == "leading" and _is_trained_here(path):
        # Older runs wrote "leading" by mistake: it starts from pure noise at a level with signal.
        return replace(sampler, spacing="trailing")
    return sampler


def usual_sampler(path: str | os.PathLike[str], steps: int | None = None) -> Sampler:
    """The default sampler of a pipeline.

    For a pixel model trained by nelbo it is chosen for the chain; the scheduler of such a model is
    for diffusers. Otherwise the scheduler describes it. A model without a chain samples in one
    call.

    Args:
        path: as `load_sampler`.
        steps: number of steps; None for what suits the sampler.

    Raises:
        NelboError: as `load_sampler`, or more steps than the chain has levels.
    """
    path = resolve(path)
    index = read_pipeline(path)
    if not has_chain(index):
        if steps is not None:
            raise NelboError(f"{path} is a {index.class_name}, which samples without steps")
        return OneCall()
    if _is_trained_here(path) and not is_of_latents(index):
        return default_sampler(read_scheduler(path, index).schedule, steps)
    return load_sampler(path, steps)


def _is_trained_here(path: str | os.PathLike[str]) -> bool:
    return "trained" in (read_own(path) or {})


def load_schedule(path: str | os.PathLike[str]) -> NoiseSchedule | None:
    """The noise levels of a pipeline's chain, without its networks; None without a chain."""
    path = resolve(path)
    index = read_pipeline(path)
    return read_scheduler(path, index).schedule if has_chain(index) else None


def save(
    model: Model,
    path: str | os.PathLike[str],
    *,
    sampler: Sampler | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a model as a pipeline directory that diffusers reads; each file appears whole or not.

    Args:
        model: a diffusion model whose network is a `UNet`, a latent one, or one of a family.
        path: the directory, made if it does not exist.
        sampler: the sampler that the scheduler describes; by default DDPM, and for latents the DDIM
            of Stable Diffusion.
        notes: further entries of nelbo.json, such as the data and settings of a run.

    Raises:
        NelboError: a network, sampler or respaced chain that the format cannot hold, or weights
            that are not finite.
    """
    check_finite_weights(dict(model.named_parameters()), "the model to save")
    _save(model, Path(path), sampler, notes or {})


@singledispatch
def _save(model: Any, directory: Path, sampler: Sampler | None, notes: Mapping[str, Any]) -> None:
    """Write a model in the format of its kind; each kind is registered below."""
    raise NelboError(
        f"there is no format for a {type(model).__name__}: nelbo saves a Diffusion, a "
        "LatentDiffusion and the families of nelbo.families"
    )


_save.register(Diffusion, save_pixel)
_save.register(LatentDiffusion, latent.save_latent)
_save.register(Family, save_family)


def _loader(index: PipelineIndex) -> Callable[[str | os.PathLike[str], PipelineIndex], Any]:
    """What loads a model of this class."""
    return load_family if index.class_name in FAMILIES else _LOADERS[index.class_name]


def read_pipeline(path: str | os.PathLike[str]) -> PipelineIndex:
    """The index of a pipeline.

    Raises:
        NelboError: it is missing, or of an unsupported class.
    """
    index = read_index(path)
    if index.class_name not in {*_LOADERS, *FAMILIES}:
        raise NelboError(
            f"{index.file}: _class_name is {index.class_name!r}, expected one of "
            f"{', '.join((*_LOADERS, *FAMILIES))}"
        )
    return index
