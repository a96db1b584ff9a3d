"""A cheap reading of the bound while training: the same images, levels and noise every time."""

from __future__ import annotations

import torch

from nelbo.bound import Bound
from nelbo.data import ImageData
from nelbo.diffusion import Diffusion
from nelbo.evaluation import evaluate
from nelbo.latent import LatentDiffusion

IMAGES = 64
LEVELS = 8


class Validation:
    """Reads the bound of a few validation images.

    Both models of a comparison meet the same noise, so that differences between readings are
    those between models; their common error, of few images and levels, stays.

    Args:
        data: the validation images; the first of them in an order that the seed decides are used.
        seed: source of the noise.
    """

    def __init__(self, data: ImageData, seed: int = 0) -> None:
        self.data = data.subset(IMAGES, seed)
        self.seed = seed

    def __call__(self, model: Diffusion | LatentDiffusion) -> float:
        """The mean negative bound, bits per dimension."""
        generator = torch.Generator().manual_seed(self.seed)
        levels = LEVELS if model.num_levels - 1 > LEVELS else None
        bounds = evaluate(model, self.data, levels=levels, generator=generator)
        return Bound.cat(list(bounds)).mean().bits_per_dim.mean
