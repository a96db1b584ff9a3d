"""The latent model that a run trains, new or trained before, and the latents it is trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nelbo.base.arguments import check_choice
from nelbo.base.errors import NelboError
from nelbo.data import ImageData
from nelbo.latent import LatentDiffusion
from nelbo.networks import AutoencoderKL
from nelbo.text import TEXT_ENCODER, TextEncoder
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.latent.build import build_latent_model
from nelbo.training.kinds.latent.latents import LatentData, encode_images, unit_scale
from nelbo.training.kinds.latent.options import LatentSettings

CONDITIONS = ("auto", "text", "label", "none")


def new_latent_model(
    settings: LatentSettings,
    autoencoder: AutoencoderKL,
    images: TrainingImages,
    *,
    mirrored: bool = False,
    resumed: Path | None = None,
) -> tuple[LatentDiffusion, LatentData]:
    """A fresh prior of an autoencoder's latents, where the autoencoder is, and these latents.

    Args:
        settings: which prior and text encoder.
        autoencoder: trained.
        images: what to train on and to fit the decoder's scale to.
        mirrored: encode their mirror images as well.
        resumed: the run that this goes on with, whose text encoder is used; None for a new one.

    Raises:
        NelboError: settings that do not fit together, the autoencoder or the images.
    """
    model = new_prior(settings, autoencoder, images.train, resumed=resumed)
    latents = encode_images(model, images, mirrored=mirrored)
    model.scale = unit_scale(latents)
    return model, latents.scaled(model.scale)


def new_prior(
    settings: LatentSettings,
    autoencoder: AutoencoderKL,
    data: ImageData,
    *,
    resumed: Path | None = None,
) -> LatentDiffusion:
    """A fresh prior of an autoencoder's latents, of scale 1, where the autoencoder is.

    Arguments and errors are those of `new_latent_model`.
    """
    kind = _condition(settings, data)
    captions = [caption or "" for caption in data.captions or ()] if kind == "text" else None
    text = None if captions is None else _trained_text_encoder(settings, resumed)
    return build_latent_model(
        autoencoder,
        data,
        settings,
        captions,
        text=text,
        num_classes=data.num_classes if kind == "label" else 0,
    ).to(next(autoencoder.parameters()).device)


def trained_latent_model(
    model: LatentDiffusion,
    settings: LatentSettings,
    images: TrainingImages,
    *,
    mirrored: bool = False,
    resumed: bool = False,
) -> tuple[LatentDiffusion, LatentData]:
    """A trained model made ready to be trained on, as its images and the settings ask, and
    their latents.

    Raises:
        NelboError: it reads captions that the images do not have, or nothing at all where its text
            encoder is to be trained; or the images are streamed.
    """
    if model.text is not None:
        if not images.train.has_captions:
            raise NelboError(
                f"{images.train.source} has no captions, which the model to start from reads"
            )
        model.text.requires_grad_(settings.train_text_encoder)
    elif settings.train_text_encoder:
        raise NelboError("--train-text-encoder: the model to start from has no text encoder")
    if not resumed:
        model.decoder_scale = None  # that of these images is fitted
    return model, encode_images(model, images, mirrored=mirrored)


def _trained_text_encoder(settings: LatentSettings, resumed: Path | None) -> TextEncoder | None:
    """The one that is asked for, frozen unless it is to learn on; None for a new one."""
    if settings.text_encoder is None:
        return None
    own = resumed is not None and (resumed / TEXT_ENCODER).is_dir()
    text = TextEncoder.from_pretrained(resumed if own and resumed else settings.text_encoder)
    return text.requires_grad_(settings.train_text_encoder)


def found_again(settings: LatentSettings) -> LatentSettings:
    """With the path of a text encoder as it is found from another directory."""
    path = settings.text_encoder
    if path is None or not Path(path).exists():  # the latter may be a Hub id
        return settings
    return replace(settings, text_encoder=str(Path(path).resolve()))


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
