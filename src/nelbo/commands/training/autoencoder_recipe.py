"""Autoencoders in `nelbo train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from rich.console import Console
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.commands.training.autoencoder_run import (
    AUTOENCODER,
    COLUMNS,
    SHOWN,
    beside_reconstructions,
    finish_autoencoder,
)
from nelbo.commands.training.recipe import Recipe
from nelbo.commands.training.refinement import Asked
from nelbo.commands.training.session import TrainingImages
from nelbo.data import ImageData
from nelbo.diffusion import Pixels
from nelbo.formats import NELBO_FILE, write_json
from nelbo.formats.data_space import data_config
from nelbo.networks import AutoencoderKL
from nelbo.networks.discriminator import PatchDiscriminator
from nelbo.networks.perceptual import PerceptualDistance
from nelbo.report.grids import image_grid
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.autoencoder import AutoencoderObjective
from nelbo.training.autoencoder_evaluation import evaluate_autoencoder, fit_scale
from nelbo.training.build_latent import autoencoder_widths, build_autoencoder
from nelbo.training.config import AutoencoderSettings
from nelbo.training.validation import IMAGES


class AutoencoderRecipe(Recipe):
    """A KL-regularised autoencoder of images.

    Args:
        settings: which autoencoder.
        images: what it is trained, chosen and reported on.
        start: a trained autoencoder to begin with, rather than a fresh one.

    Raises:
        NelboError: settings that do not fit together or the images.
    """

    def __init__(
        self,
        settings: AutoencoderSettings,
        images: TrainingImages,
        start: AutoencoderKL | None = None,
    ) -> None:
        data = images.train
        perceptual = _perceptual(settings, data)
        file = settings.perceptual_weights and str(Path(settings.perceptual_weights).resolve())
        if start is None:
            widths = settings.widths or autoencoder_widths(*data.shape[1:])
            settings = dataclasses.replace(settings, widths=widths)
        self.settings = dataclasses.replace(settings, perceptual_weights=file)
        autoencoder = start or build_autoencoder(
            data,
            latent_channels=settings.latent_channels,
            widths=settings.widths,
            layers=settings.layers,
        )
        adversarial = settings.adversarial_weight
        self.model: AutoencoderObjective = AutoencoderObjective(
            autoencoder,
            Pixels(data.levels),
            likelihood=settings.likelihood,
            kl_weight=settings.kl_weight,
            discriminator=PatchDiscriminator(data.shape[0]) if adversarial else None,
            adversarial_weight=adversarial,
            perceptual=perceptual,
            perceptual_weight=settings.perceptual_weight,
            mirrored=settings.mirrored,
            recoloured=settings.recoloured,
        )
        self.data: ImageData = data
        self.images = images
        self._few = images.validation.subset(IMAGES, seed=0)

    def save(self, model: AutoencoderObjective, directory: Path, notes: Mapping[str, Any]) -> None:
        """vae/ as diffusers reads it, and nelbo.json."""
        model.autoencoder.save_pretrained(directory / AUTOENCODER)
        write_json(directory / NELBO_FILE, {**notes, "pixels": data_config(model.data)})

    def validation(self, model: AutoencoderObjective) -> float:
        """The bound of a plain VAE, with the scale that suits these very images best."""
        return self.reading(model, IMAGES).item()

    def reading(self, model: AutoencoderObjective, images: int) -> Tensor:
        """As `validation`, the mean over some images, (1,)."""
        autoencoder, few = model.autoencoder, self._few.take(slice(images))
        scale = fit_scale(autoencoder, few)
        return torch.tensor([evaluate_autoencoder(autoencoder, few, scale).bits_per_dim])

    def picture(self, model: AutoencoderObjective, seed: int, calls: int | None = None) -> Image:
        """Validation images, each beside its reconstruction."""
        shown = SHOWN if calls is None else max(COLUMNS // 2, min(SHOWN, calls))
        pairs = beside_reconstructions(model.autoencoder, self._few.take(slice(shown)))
        return image_grid(pairs, self._few.levels, columns=COLUMNS)

    def finish(
        self,
        run: RunDirectory,
        *,
        asked: Asked,
        seconds: float,
        seed: int,
        device: torch.device,
        table_to: Console,
    ) -> dict[str, Any]:
        """PSNR and the bound of a plain VAE on both splits, reconstructions, and the report."""
        return finish_autoencoder(
            run,
            train=self.images.train,
            for_fits=self.images.for_fits,
            test=self.images.reported,
            asked=asked,
            seconds=seconds,
            seed=seed,
            device=device,
            table_to=table_to,
        )


def _perceptual(settings: AutoencoderSettings, data: ImageData) -> PerceptualDistance | None:
    """LPIPS as asked for, once it has looked at an image of this size.

    Raises:
        NelboError: a weight without a file or the other way round, or images that do not suit it.
    """
    weight, file = settings.perceptual_weight, settings.perceptual_weights
    if (weight > 0) != (file is not None):
        raise NelboError(
            "--perceptual-weight and --perceptual-weights go together: how much LPIPS counts, and "
            "the file with its weights"
        )
    if file is None:
        return None
    distance = PerceptualDistance.load(file)
    image = torch.zeros(1, *data.shape)
    distance(image, image)
    return distance
