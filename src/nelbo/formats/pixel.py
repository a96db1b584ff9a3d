"""Pipelines of pixels: a denoising network and a scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.diffusion import Diffusion
from nelbo.formats.chain import check_chain, read_chain, write_chain
from nelbo.formats.controlnets import controlled, save_controlnets, uncontrolled
from nelbo.formats.data_space import read_data_space
from nelbo.formats.files import write_index
from nelbo.formats.pipeline import Format, Pipeline
from nelbo.networks.denoisers import denoiser_to_save
from nelbo.networks.files import CONFIG_FILE
from nelbo.samplers import DDPM, Sampler


def load_pixel(pipeline: Pipeline) -> Diffusion:
    """The model of a `DDPMPipeline` or `DDIMPipeline`."""
    denoiser = pipeline.index.denoiser(text=False)
    scheduler = pipeline.scheduler  # refused, if it is, before the network is read
    unet = denoiser.from_pretrained(pipeline.path, pipeline.folder(denoiser.folder, CONFIG_FILE))
    network = controlled(pipeline, unet)
    return read_chain(pipeline, scheduler, network, read_data_space(pipeline)).eval()


def save_pixel(
    model: Diffusion, directory: Path, sampler: Sampler | None, notes: Mapping[str, Any]
) -> None:
    """Write a `DDPMPipeline`, or for other samplers a `DDIMPipeline`.

    diffusers has no pipeline of pixels that calls a solver as it needs to be called; its
    DDIMPipeline reads the chain from any scheduler and walks it by DDIM.
    """
    network = denoiser_to_save(uncontrolled(model.network))
    class_name = network.config.class_name
    if network.config.for_text:
        raise NelboError(f"a pipeline of pixels has no text encoder, which a {class_name} needs")
    check_chain(model)
    _, own = save_controlnets(model.network, directory)
    kind = write_chain(model, directory, sampler, {**notes, **own}, DDPM())
    network.save_pretrained(directory / network.folder)
    parts = {"scheduler": ["diffusers", kind], network.folder: ["diffusers", class_name]}
    name = "DDPMPipeline" if kind == "DDPMScheduler" else "DDIMPipeline"
    write_index(directory, name, parts)


FORMAT = Format("pixel", Diffusion, ("DDPMPipeline", "DDIMPipeline"), load_pixel, save_pixel)
