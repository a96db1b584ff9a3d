"""Autoencoders in `nelbo train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nelbo.commands.common import say
from nelbo.commands.recipe import Recipe
from nelbo.data import ImageData
from nelbo.diffusers_format import NELBO_FILE, write_json
from nelbo.diffusers_format.data_space import data_config
from nelbo.diffusion import Pixels
from nelbo.networks import AutoencoderKL
from nelbo.networks.discriminator import PatchDiscriminator
from nelbo.report.grids import image_grid, save_grid
from nelbo.training.autoencoder import AutoencoderObjective
from nelbo.training.autoencoder_evaluation import evaluate_autoencoder, fit_scale
from nelbo.training.build_latent import autoencoder_widths, build_autoencoder
from nelbo.training.config import AutoencoderSettings
from nelbo.training.run_directory import RunDirectory
from nelbo.training.validation import IMAGES

if TYPE_CHECKING:
    from PIL.Image import Image

AUTOENCODER = "vae"
# Originals, each beside its reconstruction.
_SHOWN, _COLUMNS = 32, 8


class AutoencoderRecipe(Recipe):
    """A KL-regularised autoencoder of images.

    Args:
        settings: which autoencoder.
        data: the images to train on.
        test: the images held out.

    Raises:
        NelboError: settings that do not fit together or the images.
    """

    def __init__(self, settings: AutoencoderSettings, data: ImageData, test: ImageData) -> None:
        widths = settings.widths or autoencoder_widths(*data.shape[1:])
        self.settings = dataclasses.replace(settings, widths=widths)
        autoencoder = build_autoencoder(
            data,
            latent_channels=settings.latent_channels,
            widths=widths,
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
            mirrored=settings.mirrored,
            recoloured=settings.recoloured,
        )
        self.data: ImageData = data
        self.test = test
        self._few = test.subset(IMAGES, seed=0)

    def save(self, model: AutoencoderObjective, directory: Path, notes: Mapping[str, Any]) -> None:
        """vae/ as diffusers reads it, and nelbo.json."""
        model.autoencoder.save_pretrained(directory / AUTOENCODER)
        write_json(directory / NELBO_FILE, {**notes, "pixels": data_config(model.data)})

    def validation(self, model: AutoencoderObjective) -> float:
        """The bound of a plain VAE, with the scale that suits these very images best."""
        autoencoder = model.autoencoder
        return evaluate_autoencoder(
            autoencoder, self._few, fit_scale(autoencoder, self._few)
        ).bits_per_dim

    def picture(self, model: AutoencoderObjective, seed: int) -> Image:
        """Held-out images, each beside its reconstruction."""
        pairs = beside_reconstructions(model.autoencoder, self._few.take(slice(_SHOWN)))
        return image_grid(pairs, self._few.levels, columns=_COLUMNS)

    def finish(
        self,
        run: RunDirectory,
        *,
        levels: int | Literal["all"],
        images: int,
        seed: int,
        device: torch.device,
    ) -> dict[str, Any]:
        """PSNR and the bound of a plain VAE on both splits, and reconstructions."""
        autoencoder = AutoencoderKL.from_pretrained(run.path, AUTOENCODER).to(device)
        scale = fit_scale(autoencoder, self.data)
        evaluation: dict[str, Any] = {"decoder_scale": scale}
        for split, data in (("train", self.data), ("test", self.test)):
            shown = data.subset(images, seed)
            reading = evaluate_autoencoder(autoencoder, shown, scale)
            evaluation[split] = {"examples": len(shown), **dataclasses.asdict(reading)}
            say(
                f"{split}: PSNR {reading.psnr:.2f} dB ({reading.psnr_of_mean:.2f} dB of the mean "
                f"error); as a VAE {reading.bits_per_dim:.3f} bits/dim = reconstruction "
                f"{reading.reconstruction:.3f} + divergence {reading.divergence:.3f} "
                f"({reading.divergence_nats:.0f} nats)"
            )
        say(f"scale of the decoder: {scale:.4f}, in images from −1 to 1")
        run.write_evaluation(evaluation)
        pairs = beside_reconstructions(autoencoder, self._few.take(slice(_SHOWN)))
        save_grid(pairs, run.samples / "final.png", self.test.levels, columns=_COLUMNS)
        return {"evaluation": evaluation}


@torch.no_grad()
def beside_reconstructions(autoencoder: AutoencoderKL, data: ImageData) -> Tensor:
    """Each image, then its reconstruction from the mean latent, (2N, C, H, W) uint8."""
    pixels = Pixels(data.levels)
    x = pixels.to_network(data.images).to(next(autoencoder.parameters()).device)
    made = pixels.to_levels(autoencoder(x).clamp(-1, 1)).byte().cpu()
    return torch.stack([data.images, made], 1).flatten(0, 1)
