"""Which prior to train for the latents of an autoencoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nelbo.base.arguments import check_choice
from nelbo.base.errors import NelboError
from nelbo.data import ImageData
from nelbo.data.size import divisible_near
from nelbo.diffusion import Continuous, Diffusion, NoiseSchedule, Pixels
from nelbo.latent import LatentDiffusion
from nelbo.networks import AutoencoderKL, TextUNetConfig, UNet, UNetConfig
from nelbo.networks.denoiser import Denoiser
from nelbo.text import TextEncoder
from nelbo.training.kinds.coordinates import continuous_schedule, prediction_of
from nelbo.training.kinds.latent.latents import check_captions
from nelbo.training.kinds.latent.options import LatentSettings
from nelbo.training.kinds.transformer import build_transformer, one_width
from nelbo.training.memory import built_within_memory

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
    settings: LatentSettings = LatentSettings(),  # noqa: B008 - frozen
    captions: Sequence[str] | None = None,
    *,
    text: TextEncoder | None = None,
    num_classes: int = 0,
) -> LatentDiffusion:
    """A fresh prior for the latents of a trained autoencoder, of scale 1.

    Args:
        autoencoder: the trained autoencoder.
        data: the images to train on.
        settings: of the prior, and of a new text encoder.
        captions: a text for each; the prior attends to them.
        text: the text encoder; with captions and without one, a fresh one that is to be trained
            with the prior.
        num_classes: number of classes of the prior; 0 for none.

    Raises:
        NelboError: another number of captions than images, a text encoder without captions, or
            latents too small for the number of resolutions.
    """
    if captions is not None and text is None:
        text = TextEncoder.for_captions(
            captions,
            width=settings.text_width,
            layers=settings.text_layers,
            heads=settings.text_heads,
            vocabulary=settings.vocabulary,
        )
    check_captions(data, captions, text)
    config, factor = autoencoder.config, autoencoder.config.downscale
    shape = (config.latent_channels, data.shape[1] // factor, data.shape[2] // factor)
    prediction, widths = settings.prediction, settings.widths
    if settings.network == "dit":
        denoiser: Denoiser = build_transformer(
            shape,
            width=one_width(widths, DIT_WIDTH),
            blocks=settings.blocks,
            patch=settings.patch,
            num_classes=num_classes,
            text_width=None if text is None else text.config.hidden_size,
            source="latents",
        )
    else:
        settings = replace(settings, widths=widths or UNET_WIDTHS)
        _check_halvings(data, factor, settings.widths)
        of_unet = _unet_config(shape, settings, text, num_classes)
        denoiser = built_within_memory(lambda: UNet(of_unet))
    prior = Diffusion(
        denoiser,
        _schedule(settings),
        # The scale brings the latents to unit variance.
        prediction=prediction_of(prediction, lambda: 1.0),
        variance="fixed_large" if prediction in _USUAL else "fixed_small",
        data=Continuous(),
        shape=shape,
    )
    return LatentDiffusion(autoencoder, prior, text=text, scale=1.0, data=Pixels(data.levels))


def _schedule(settings: LatentSettings) -> NoiseSchedule:
    name = settings.schedule or _USUAL.get(settings.prediction, "cosine")
    check_choice("schedule", name, SCHEDULES)
    T = settings.levels
    return continuous_schedule(name, T, settings.shift) or getattr(NoiseSchedule, name)(T)


def _check_halvings(data: ImageData, factor: int, widths: Sequence[int]) -> None:
    """Raise `NelboError` for latents that a UNet of these widths cannot halve."""
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
    settings: LatentSettings,
    text: TextEncoder | None,
    num_classes: int,
) -> TextUNetConfig | UNetConfig:
    (channels, height, width), widths, heads = shape, settings.widths, settings.heads
    fields: dict[str, Any] = {
        "sample_size": height if height == width else (height, width),
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": widths,
        "layers_per_block": settings.layers,
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
