"""The ControlNets of a pipeline: controlnet/, controlnet_1/, ..., as diffusers names them.

diffusers has pipelines of a ControlNet for models of text alone. Other models keep theirs beside
the parts of the pipeline of their base, which diffusers reads without them; nelbo.json has their
number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError, explained
from nelbo.formats.config_fields import ConfigFields
from nelbo.formats.pipeline import CONTROLNET, CONTROLNETS, Pipeline
from nelbo.networks import ControlledUNet, ControlNet, ControlNetConfig, UNet
from nelbo.networks.config import is_number
from nelbo.networks.denoiser import Denoiser

# What diffusers calls several of them.
MULTIPLE = "MultiControlNetModel"
_SCALE = "control_scale"


def controlled(pipeline: Pipeline, denoiser: Denoiser) -> Denoiser | ControlledUNet:
    """The denoising network of a pipeline with its ControlNets; itself without any.

    Raises:
        NelboError: a ControlNet that is missing or of another UNet, or a scale that is no number.
    """
    if not pipeline.is_controlled:
        return denoiser
    path = pipeline.path
    if not isinstance(denoiser, UNet):
        name = type(denoiser).__name__
        raise NelboError(f"{path}: a ControlNet controls a UNet, found a {name}")
    nets = [ControlNet.from_pretrained(path, folder) for folder in _folders(pipeline)]
    scales = _scales(pipeline.own_fields, len(nets))
    with explained(path):
        return ControlledUNet(denoiser, nets, scales)


def save_controlnets(network: Any, directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the ControlNets of a network, if it has any.

    Returns:
        their entry in the index of a pipeline of diffusers, and what nelbo.json notes of them.
    """
    if not isinstance(network, ControlledUNet):
        return {}, {}
    for i, net in enumerate(network.nets):
        net.save_pretrained(directory / _folder(i))
    several = len(network.nets) > 1
    notes: dict[str, Any] = {CONTROLNETS: len(network.nets)}
    scales = [strength.scale for strength in network.strengths]
    if scales != [1.0] * len(scales):
        notes[_SCALE] = scales if several else scales[0]
    kind = MULTIPLE if several else ControlNetConfig.class_name
    return {CONTROLNET: ["diffusers", kind]}, notes


def uncontrolled(network: Any) -> Any:
    """The network that ControlNets act on, or itself."""
    return network.unet if isinstance(network, ControlledUNet) else network


def _folder(i: int) -> str:
    return CONTROLNET if i == 0 else f"{CONTROLNET}_{i}"


def _folders(pipeline: Pipeline) -> list[str]:
    """The folders of the ControlNets."""
    kind = pipeline.index.parts.get(CONTROLNET)
    if kind is not None:
        pipeline.index.require(CONTROLNET, ControlNetConfig.class_name, MULTIPLE)
    count = 1
    if CONTROLNETS in pipeline.notes:
        count = pipeline.own_fields.integer(CONTROLNETS, 1)
    elif kind == MULTIPLE:
        while (Path(pipeline.path) / _folder(count)).is_dir():
            count += 1
    return [_folder(i) for i in range(count)]


def _scales(own: ConfigFields, count: int) -> list[float]:
    """The scale of each ControlNet."""
    value = own.fields.get(_SCALE, 1.0)
    scales = value if isinstance(value, list) else [value] * count
    if not all(map(is_number, scales)) or len(scales) != count:
        raise own.wrong(_SCALE, "a number" if count == 1 else f"{count} numbers")
    return [float(scale) for scale in scales]
