"""Pipelines of pixels: a UNet and a scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.diffusion import Diffusion
from nelbo.formats.chain import check_chain, read_chain, write_chain
from nelbo.formats.data_space import read_data_space
from nelbo.formats.files import write_index
from nelbo.formats.pipeline import Format, Pipeline
from nelbo.networks import UNet, UNetConfig
from nelbo.networks.files import CONFIG_FILE
from nelbo.samplers import DDPM, Sampler


def load_pixel(pipeline: Pipeline) -> Diffusion:
    """The model of a `DDPMPipeline` or `DDIMPipeline`."""
    pipeline.index.require("unet", UNetConfig.class_name)
    scheduler = pipeline.scheduler  # refused, if it is, before the network is read
    network = UNet.from_pretrained(pipeline.path, pipeline.folder("unet", CONFIG_FILE))
    return read_chain(pipeline, scheduler, network, read_data_space(pipeline)).eval()


def save_pixel(
    model: Diffusion, directory: Path, sampler: Sampler | None, notes: Mapping[str, Any]
) -> None:
    """Write a `DDPMPipeline`, or for other samplers a `DDIMPipeline`.

    diffusers has no pipeline of pixels that calls a solver as it needs to be called; its
    DDIMPipeline reads the chain from any scheduler and walks it by DDIM.
    """
    network = model.network
    if not isinstance(network, UNet) or not isinstance(network.config, UNetConfig):
        name = network.config.class_name if isinstance(network, UNet) else type(network).__name__
        raise NelboError(f"only a UNet of the class UNet2DModel can be saved, found {name}")
    check_chain(model)
    kind = write_chain(model, directory, sampler or DDPM(), notes)
    network.save_pretrained(directory / "unet")
    parts = {"scheduler": ["diffusers", kind], "unet": ["diffusers", UNetConfig.class_name]}
    name = "DDPMPipeline" if kind == "DDPMScheduler" else "DDIMPipeline"
    write_index(directory, name, parts)


FORMAT = Format("pixel", Diffusion, ("DDPMPipeline", "DDIMPipeline"), load_pixel, save_pixel)
