"""The networks of a single file."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

from nelbo.base.errors import NelboError, explained
from nelbo.formats.config_fields import ConfigFields
from nelbo.formats.single.autoencoder import autoencoder_fields, rename_autoencoder
from nelbo.formats.single.checkpoint import AUTOENCODER, CONTROL, UNET, Checkpoint
from nelbo.formats.single.renaming import Weights
from nelbo.formats.single.unet import controlnet_fields, rename_controlnet, rename_unet, unet_fields
from nelbo.networks import AutoencoderKL, ControlNet, UNet
from nelbo.networks.pretrained import Pretrained, skeleton
from nelbo.networks.weights import load_weights

SomeNetwork = TypeVar("SomeNetwork", bound=Pretrained)

# What latents are multiplied by, which no weight states.
SCALE, XL_SCALE = 0.18215, 0.13025
_SCALING = "scaling_factor"
_PREDICTS_V = {"epsilon": False, "v_prediction": True, "v": True}


def read_unet(checkpoint: Checkpoint) -> UNet:
    """The denoising network.

    Raises:
        NelboError: weights that do not fit a UNet of Stable Diffusion.
    """
    weights = checkpoint.weights(UNET)
    fields = _shape(checkpoint, unet_fields, weights) | {"sample_size": latent_side(checkpoint)}
    if fields["in_channels"] > fields["out_channels"]:
        raise NelboError(
            f"{checkpoint.path}: its network reads {fields['in_channels']} channels for the "
            f"{fields['out_channels']} that it denoises, a mask or a picture beside the latents; "
            "nelbo edits with networks that read the latents alone"
        )
    named = {"_class_name": "UNet2DConditionModel", **fields}
    return _built(checkpoint, UNet, named, rename_unet(weights))


def read_controlnet(checkpoint: Checkpoint) -> ControlNet:
    """The ControlNet; errors as `read_unet`."""
    weights = checkpoint.weights(CONTROL if checkpoint.is_pipeline else "")
    fields = _shape(checkpoint, controlnet_fields, weights)
    return _built(checkpoint, ControlNet, fields, rename_controlnet(weights))


def read_autoencoder(checkpoint: Checkpoint) -> AutoencoderKL:
    """The autoencoder, scaled as the notes have it or as its model usually is."""
    weights = checkpoint.weights(AUTOENCODER if checkpoint.is_pipeline else "")
    weights = {
        name: w
        for name, w in weights.items()
        if name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
    }
    usual = XL_SCALE if checkpoint.is_xl else SCALE
    scale = (checkpoint.notes or {}).get(_SCALING, usual)
    fields = _shape(checkpoint, lambda found: autoencoder_fields(found, scale), weights)
    return _built(checkpoint, AutoencoderKL, fields, rename_autoencoder(weights))


def latent_side(checkpoint: Checkpoint) -> int:
    """Height and width of the latents that the network was trained with.

    `modelspec.resolution` of the file states those of pictures; otherwise they are the usual ones.
    """
    stated = checkpoint.metadata.get("modelspec.resolution", "").split("x")[0]
    if stated.isdecimal():
        return int(stated) // 8
    return 128 if checkpoint.is_xl else 96 if predicts_v(checkpoint) else 64


def predicts_v(checkpoint: Checkpoint) -> bool:
    """Whether the network predicts v.

    Notes, `modelspec.prediction_type` or a tensor `v_pred` state it; otherwise Stable Diffusion 2
    does.

    Raises:
        NelboError: they state another prediction.
    """
    stated = (
        ConfigFields(checkpoint.notes_file, checkpoint.notes or {}),
        ConfigFields(checkpoint.path, checkpoint.metadata),
    )
    for fields, name in zip(stated, ("prediction", "modelspec.prediction_type"), strict=True):
        if fields.fields.get(name) is not None:
            return fields.choice(name, _PREDICTS_V)
    return "v_pred" in checkpoint.names or checkpoint.is_second


def _shape(checkpoint: Checkpoint, read: Any, weights: Weights) -> dict[str, Any]:
    try:
        return read(weights)
    except (KeyError, IndexError, ValueError) as error:
        raise NelboError(
            f"{checkpoint.path} is taken for a {checkpoint.kind}, but lacks the weight {error}"
        ) from error


def _built(
    checkpoint: Checkpoint, kind: type[SomeNetwork], fields: dict[str, Any], weights: Weights
) -> SomeNetwork:
    """A network of this shape with these weights, named as diffusers names them."""
    with explained(checkpoint.path), skeleton():
        network = kind.from_config(fields)
    found: dict[str, Tensor] = dict(weights)
    load_weights(network, found, checkpoint.path)
    return network.eval()
