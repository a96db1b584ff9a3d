"""Pipelines of pixels: a UNet and a scheduler."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.diffusion import Diffusion
from nelbo.formats.chain import check_chain, read_chain, read_scheduler, write_chain
from nelbo.formats.data_space import read_data_space
from nelbo.formats.files import PipelineIndex, part_folder, write_index
from nelbo.networks import UNet, UNetConfig
from nelbo.networks.files import CONFIG_FILE
from nelbo.samplers import DDPM, Sampler


def load_pixel(path: str | os.PathLike[str], index: PipelineIndex) -> Diffusion:
    """The model of a `DDPMPipeline` or `DDIMPipeline`."""
    index.require("unet", UNetConfig.class_name)
    scheduler = read_scheduler(path, index)
    network = UNet.from_pretrained(path, part_folder(path, "unet", CONFIG_FILE))
    return read_chain(path, scheduler, network, read_data_space(path)).eval()


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
