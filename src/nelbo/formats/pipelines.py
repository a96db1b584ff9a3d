"""Load and save whole pipelines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nelbo.base.arguments import check_path
from nelbo.base.errors import NelboError
from nelbo.base.files import writing
from nelbo.chain.model import Model
from nelbo.diffusion.prediction import RawDenoiser
from nelbo.formats import adapted, family, latent, pixel
from nelbo.formats.edm_scheduler import EDM_READERS, edm_config
from nelbo.formats.pipeline import FORMATS, Pipeline
from nelbo.formats.scheduler import READERS, WRITERS
from nelbo.formats.single_file import load_network
from nelbo.networks.finite import check_finite_weights
from nelbo.samplers import Sampler

READERS |= EDM_READERS
WRITERS[RawDenoiser] = edm_config
FORMATS += [pixel.FORMAT, adapted.FORMAT, latent.FORMAT, family.FORMAT]


def load(path: str | os.PathLike[str]) -> Any:
    """A model from a run or pipeline directory, a single file, or from the Hugging Face Hub.

    The name of a checkpoint that ships with the package stands for its directory.

    Returns:
        A `Diffusion` for pipelines of pixels (DDPMPipeline, DDIMPipeline), a `LatentDiffusion` for
        LDMPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline and
        StableDiffusionControlNetPipeline, those that edit pictures with the parts of one, and
        those of `nelbo.formats.adapters`; the model of a family of `nelbo.families` that `save`
        wrote; a `ControlNet` or `AutoencoderKL` for a single file that holds one alone.

    Raises:
        NelboError: a file is missing, damaged or unsupported; the message names the file and the
            field.
        MissingExtraError: a pipeline with a text encoder, without the extra `text`.
    """
    network = load_network(path)
    return Pipeline.open(path).model() if network is None else network


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
    return Pipeline.open(path).sampler(steps, kind=kind)


def save(
    model: Model,
    path: str | os.PathLike[str],
    *,
    sampler: Sampler | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a model as a pipeline directory that diffusers reads; each file appears whole or not.

    Args:
        model: a diffusion model whose network is one of `nelbo.networks.denoisers`, such as a
            `UNet`, a latent one, or one of a family.
        path: the directory, made if it does not exist.
        sampler: the sampler that the scheduler describes; by default DDPM, and for latents the DDIM
            of Stable Diffusion.
        notes: further entries of nelbo.json, such as the data and settings of a run.

    Raises:
        NelboError: a network, sampler or respaced chain that the format cannot hold, weights that
            are not finite, or a path that is a file or cannot be written.
    """
    check_path("path", path)
    kind = next((each for each in FORMATS if isinstance(model, each.model)), None)
    if kind is None:
        raise NelboError(
            f"there is no format for a {type(model).__name__}: nelbo saves a Diffusion, a "
            "LatentDiffusion and the families of nelbo.families"
        )
    check_finite_weights(dict(model.named_parameters()), "the model to save")
    directory = Path(path)
    if directory.is_file():
        raise NelboError(f"{path} is a file, expected the name of a directory to save a model in")
    with writing(directory):
        kind.save(model, directory, sampler, notes or {})
