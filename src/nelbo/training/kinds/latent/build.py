"""Which prior to train for the latents of an autoencoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import unknown
from nelbo.data import ImageData
from nelbo.data.size import divisible_near
from nelbo.diffusion import Continuous, Diffusion, NoiseSchedule, Pixels
from nelbo.latent import LatentDiffusion
from nelbo.networks import AutoencoderKL, TextUNetConfig, UNet, UNetConfig
from nelbo.networks.denoiser import Denoiser
from nelbo.text import TextEncoder
from nelbo.training.kinds.coordinates import continuous_schedule, prediction_of
from nelbo.training.kinds.latent.latents import check_captions, encode_data, unit_scale
from nelbo.training.kinds.transformer import build_transformer, one_width

UNET_WIDTHS, DIT_WIDTH = (128, 160), 192
SCHEDULES = (
    *("cosine", "linear", "scaled_linear", "sigmoid"),
    *("flow_matching", "variance_exploding"),
)
# The chain that goes with a prediction; for others it is cosine.
_USUAL = {"velocity": "flow_matching", "denoiser": "variance_exploding"}


def build_latent_model(
    autoencoder: AutoencoderKL,
    data: ImageData,
    captions: Sequence[str] | None = None,
    *,
    network: str = "unet",
    widths: Sequence[int] = (),
    layers: int = 1,
    heads: int = 4,
    blocks: int | None = None,
    patch: int | None = None,
    levels: int = 1000,
    prediction: str = "v_prediction",
    schedule: str | None = None,
    shift: float = 1.0,
    text: TextEncoder | None = None,
    num_classes: int = 0,
    scale: float | None = None,
) -> LatentDiffusion:
    """A fresh prior for the latents of a trained autoencoder, at the scale of unit variance.

    Args:
        autoencoder: the trained autoencoder.
        data: the images to train on, which decide the scale.
        captions: a text for each; the prior attends to them.
        network: "unet" or "dit".
        widths: channels of the UNet at each resolution, from that of the latents, or of the
            transformer; by default `UNET_WIDTHS` or `DIT_WIDTH`.
        layers: residual blocks of the UNet at each resolution.
        heads: attention heads of the UNet.
        blocks: of the transformer.
        patch: side of a patch of the transformer.
        levels: length T of the prior's chain.
        prediction: what the network predicts.
        schedule: of the chain; by default that which goes with the prediction.
        shift: of flow matching.
        text: the text encoder; with captions and without one, a fresh one that is to be trained
            with the prior.
        num_classes: number of classes of the prior; 0 for none.
        scale: another scale; without one all images are encoded to measure it.

    Raises:
        NelboError: another number of captions than images, a text encoder without captions, or
            latents too small for the number of resolutions.
    """
    if captions is not None and text is None:
        text = TextEncoder.for_captions(captions, width=192, layers=3, heads=6)
    check_captions(data, captions, text)
    config, factor = autoencoder.config, autoencoder.config.downscale
    height, width = data.shape[1] // factor, data.shape[2] // factor
    shape = (config.latent_channels, height, width)
    if network == "dit":
        denoiser: Denoiser = build_transformer(
            shape,
            width=one_width(tuple(widths), DIT_WIDTH),
            blocks=blocks,
            patch=patch,
            num_classes=num_classes,
            text_width=None if text is None else text.config.hidden_size,
            source="latents",
        )
    else:
        widths = widths or UNET_WIDTHS
        _check_halvings(data, factor, widths)
        denoiser = UNet(_unet_config(shape, widths, layers, heads, text, num_classes))
    prior = Diffusion(
        denoiser,
        _schedule(schedule or _USUAL.get(prediction, "cosine"), levels, shift),
        # The scale brings the latents to unit variance.
        prediction=prediction_of(prediction, lambda: 1.0),
        variance="fixed_large" if prediction in _USUAL else "fixed_small",
        data=Continuous(),
        shape=shape,
    )
    pixels = Pixels(data.levels)
    if scale is None:
        # It does not depend on captions.
        untold = LatentDiffusion(autoencoder, prior, scale=1.0, data=pixels)
        scale = unit_scale(encode_data(untold, data))
    return LatentDiffusion(autoencoder, prior, text=text, scale=scale, data=pixels)


def _schedule(name: str, levels: int, shift: float) -> NoiseSchedule:
    if name not in SCHEDULES:
        raise NelboError(unknown("schedule", name, SCHEDULES))
    return continuous_schedule(name, levels, shift) or getattr(NoiseSchedule, name)(levels)


def _check_halvings(data: ImageData, factor: int, widths: Sequence[int]) -> None:
    """Raise `NelboError` for latents that a UNet of so many widths cannot halve."""
    height, width = data.shape[1] // factor, data.shape[2] // factor
    divisor = 2 ** (len(widths) - 1)
    # Of images that an autoencoder by default would halve at least once.
    wanted = max(factor, 2) * divisor
    if height % divisor or width % divisor:
        raise NelboError(
            f"latents are {height}×{width}, which {len(widths)} resolutions need to be divisible "
            f"by {divisor}: give {divisible_near(data.shape[1:], wanted)}, whose latents are, or "
            "fewer widths of the prior"
        )


def _unet_config(
    shape: tuple[int, int, int],
    widths: Sequence[int],
    layers: int,
    heads: int,
    text: TextEncoder | None,
    num_classes: int,
) -> TextUNetConfig | UNetConfig:
    channels, height, width = shape
    fields: dict[str, Any] = {
        "sample_size": height if height == width else (height, width),
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": tuple(widths),
        "layers_per_block": layers,
        "norm_num_groups": math.gcd(16, *widths),
    }
    kind = "Attn" if text is None else "CrossAttn"
    fields |= {
        "down_block_types": (f"{kind}DownBlock2D",) * len(widths),
        "up_block_types": (f"{kind}UpBlock2D",) * len(widths),
    }
    if text is None:
        classes = num_classes or None
        return UNetConfig(**fields, attention_head_dim=widths[0] // heads, num_class_embeds=classes)
    width_of_text = text.config.hidden_size
    # The name of the last field is a mistake that the format keeps: it is a number of heads.
    return TextUNetConfig(**fields, cross_attention_dim=width_of_text, attention_head_dim=heads)
