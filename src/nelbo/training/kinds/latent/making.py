"""The latent model that a run trains, new or trained before, and the latents it is trained on."""

from __future__ import annotations

from pathlib import Path

from nelbo.base.errors import NelboError
from nelbo.latent import LatentDiffusion
from nelbo.networks import AutoencoderKL
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.latent.build import build_latent_model
from nelbo.training.kinds.latent.latents import LatentData, encode_images, unit_scale
from nelbo.training.kinds.latent.options import LatentSettings


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
    model = build_latent_model(autoencoder, images.train, settings, resumed=resumed)
    latents = encode_images(model, images, mirrored=mirrored)
    model.scale = unit_scale(latents)
    return model, latents.scaled(model.scale)


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
