"""Which prior to train for the latents of an autoencoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nelbo.base.arguments import check_choice
from nelbo.base.errors import NelboError
from nelbo.data import ImageData
from nelbo.data.size import divisible_near
from nelbo.diffusion import Continuous, Diffusion, Pixels
from nelbo.latent import LatentDiffusion
from nelbo.networks import AutoencoderKL, TextUNetConfig, UNet, UNetConfig
from nelbo.networks.denoiser import Denoiser
from nelbo.text import TEXT_ENCODER, TextEncoder
from nelbo.training.kinds.coordinates import prediction_of, schedule_of
from nelbo.training.kinds.latent.options import USUAL_SCHEDULES, LatentSettings
from nelbo.training.kinds.transformer import build_transformer, one_width
from nelbo.training.memory import built_within_memory

UNET_WIDTHS, DIT_WIDTH = (128, 160), 192
SCHEDULES = (
    *("cosine", "linear", "scaled_linear", "sigmoid"),
    *("flow_matching", "variance_exploding"),
)
CONDITIONS = ("auto", "text", "label", "none")


def build_latent_model(
    autoencoder: AutoencoderKL,
    data: ImageData,
    settings: LatentSettings = LatentSettings(),  # noqa: B008 - frozen
    *,
    resumed: Path | None = None,
) -> LatentDiffusion:
    """A fresh prior for the latents of a trained autoencoder, of scale 1, where the autoencoder is.

    Args:
        autoencoder: the trained autoencoder.
        data: the images to train on; the prior attends to their captions or is conditioned on
            their classes, as the settings ask.
        settings: of the prior, and of its text encoder: a new one is to be trained with the prior.
        resumed: the run that this goes on with, whose text encoder is used; None for a new one.

    Raises:
        NelboError: settings that do not fit together, the autoencoder or the images.
    """
    condition = _condition(settings, data)
    text = _text_encoder(settings, data, resumed) if condition == "text" else None
    num_classes = data.num_classes if condition == "label" else 0
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
        schedule_of(settings.chosen_schedule, SCHEDULES, settings.levels, settings.shift),
        # The scale brings the latents to unit variance.
        prediction=prediction_of(prediction, lambda: 1.0),
        variance="fixed_large" if prediction in USUAL_SCHEDULES else "fixed_small",
        data=Continuous(),
        shape=shape,
    )
    model = LatentDiffusion(autoencoder, prior, text=text, scale=1.0, data=Pixels(data.levels))
    return model.to(next(autoencoder.parameters()).device)


def _condition(settings: LatentSettings, data: ImageData) -> str:
    """What the prior is conditioned on: "text", "label" or "none"."""
    has = {
        "text": data.has_captions,
        "label": bool(data.num_classes),
        "none": True,
    }
    if settings.train_text_encoder and settings.text_encoder is None:
        raise NelboError("--train-text-encoder is for --text-encoder: a new one is trained anyway")
    asked = settings.condition
    check_choice("condition", asked, CONDITIONS)
    if settings.text_encoder is not None:
        if asked not in ("auto", "text"):
            raise NelboError(f"--text-encoder reads captions, but --condition is {asked}")
        asked = "text"
    if asked == "auto":
        return next(kind for kind, there in has.items() if there)
    if not has[asked]:
        missing = "captions" if asked == "text" else "labels"
        option = "--text-encoder" if settings.text_encoder else f"--condition {asked}"
        raise NelboError(f"{data.source} has no {missing}, which {option} needs")
    return asked


def _text_encoder(settings: LatentSettings, data: ImageData, resumed: Path | None) -> TextEncoder:
    """The one that is asked for, frozen unless it is to learn on; else a new one."""
    if settings.text_encoder is None:
        return TextEncoder.for_captions(
            [caption or "" for caption in data.captions or ()],
            width=settings.text_width,
            layers=settings.text_layers,
            heads=settings.text_heads,
            vocabulary=settings.vocabulary,
        )
    own = resumed is not None and (resumed / TEXT_ENCODER).is_dir()
    text = TextEncoder.from_pretrained(resumed if own and resumed else settings.text_encoder)
    return text.requires_grad_(settings.train_text_encoder)


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
