"""Autoencoders, from their settings to their report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.data import ImageData
from nelbo.data.size import Size
from nelbo.diffusion import Pixels
from nelbo.evidence.autoencoder import AutoencoderRun, evaluate_autoencoder, fit_scale
from nelbo.formats import NELBO_FILE, load, write_json
from nelbo.formats.data_space import data_config
from nelbo.formats.model_directory import AUTOENCODER, holds_autoencoder_alone, resolve
from nelbo.networks import AutoencoderKL
from nelbo.networks.discriminator import PatchDiscriminator
from nelbo.networks.perceptual import PerceptualDistance
from nelbo.report.grids import image_grid
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.autoencoder.build import (
    autoencoder_widths,
    build_autoencoder,
    fitted,
    freeze_encoder,
    read_autoencoder,
)
from nelbo.training.kinds.autoencoder.objective import AutoencoderObjective
from nelbo.training.kinds.autoencoder.options import AutoencoderSettings, TrainAutoencoder
from nelbo.training.kinds.autoencoder.report import COLUMNS, SHOWN, beside_reconstructions, report
from nelbo.training.kinds.autoencoder.task import AutoencoderTask
from nelbo.training.kinds.kind import Ending, Kind, Start
from nelbo.training.validation import IMAGES


class Autoencoder(Kind):
    """A KL-regularised autoencoder of images."""

    name = "autoencoder"
    draws = False
    fits = True
    exports = False
    options: TrainAutoencoder

    def __init__(
        self,
        options: TrainAutoencoder,
        images: TrainingImages,
        device: torch.device,
        start: Start | None = None,
    ) -> None:
        data, settings = images.train, options.model
        torch.manual_seed(options.training.seed)
        perceptual = _perceptual(settings, data)
        if start is None:
            widths = settings.widths or autoencoder_widths(*data.shape[1:])
            settings = dataclasses.replace(settings, widths=widths)
            autoencoder = build_autoencoder(
                data,
                latent_channels=settings.latent_channels,
                widths=settings.widths,
                layers=settings.layers,
            )
        else:
            autoencoder = fitted(start.model, data.shape)
        if settings.freeze_encoder:
            freeze_encoder(autoencoder)
        adversarial = settings.adversarial_weight
        objective = AutoencoderObjective(
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
        self.options = options.with_settings(settings)
        self.task = AutoencoderTask(objective, data, options.training)
        self._few = images.validation.subset(IMAGES, seed=0)

    @classmethod
    def is_at(cls, path: Path) -> bool:
        """Whether the run of an autoencoder alone is there."""
        return holds_autoencoder_alone(path)

    @classmethod
    def load(cls, path: str | Path) -> AutoencoderRun:
        """The autoencoder of a run, with what it is of."""
        return AutoencoderRun.load(path)

    @classmethod
    def starting_model(cls, path: str) -> AutoencoderKL:
        """The autoencoder at a path, by itself or of a pipeline."""
        autoencoder = read_autoencoder(Path(resolve(path)))
        if autoencoder is not None:
            return autoencoder
        autoencoder = getattr(load(path), "autoencoder", None)
        if autoencoder is None:
            raise NelboError(f"--start-from: {path} is a model of pixels, without an autoencoder")
        return autoencoder

    @classmethod
    def frame(cls, model: AutoencoderKL) -> tuple[Size | None, int | None]:
        """As its config has them; it takes other sizes as well."""
        size = model.config.sample_size
        square = (size, size) if isinstance(size, int) else size
        return None if square is None else (square[0], square[1]), model.config.in_channels

    def save(self, module: AutoencoderObjective, directory: Path, notes: Mapping[str, Any]) -> None:
        """vae/ as diffusers reads it, and nelbo.json."""
        module.autoencoder.save_pretrained(directory / AUTOENCODER)
        write_json(directory / NELBO_FILE, {**notes, "pixels": data_config(module.data)})

    def reading(self, module: AutoencoderObjective, images: int = IMAGES) -> Tensor:
        """The mean bound of a plain VAE, (1,), with the scale that suits these images best."""
        autoencoder, few = module.autoencoder, self._few.take(slice(images))
        scale = fit_scale(autoencoder, few)
        return torch.tensor([evaluate_autoencoder(autoencoder, few, scale).bits_per_dim])

    def picture(self, module: AutoencoderObjective, seed: int, calls: int | None = None) -> Image:
        """Validation images, each beside its reconstruction."""
        shown = SHOWN if calls is None else max(COLUMNS // 2, min(SHOWN, calls))
        pairs = beside_reconstructions(module.autoencoder, self._few.take(slice(shown)))
        return image_grid(pairs, self._few.levels, columns=COLUMNS)

    @classmethod
    def report(cls, run: RunDirectory, model: AutoencoderRun, ending: Ending) -> dict[str, Any]:
        """PSNR and the bound of a plain VAE on both splits, reconstructions, and the report."""
        return report(run, model.autoencoder, ending)


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


KIND = Autoencoder
