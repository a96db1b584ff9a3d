"""A cheap reading of the bound while training: the same images, levels and noise every time."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.chain.evidence import joined
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.evidence.evaluation import evaluate
from nelbo.evidence.reading_levels import levels_to_read

IMAGES = 64
LEVELS = 8


class Validation:
    """Reads the bound of a few validation images.

    All models of a comparison meet the same levels and noise, so that differences between readings
    are those between models; their common error, of few images and levels, stays.

    Args:
        data: the validation images; the first of them in an order that the seed decides are used.
        seed: source of the noise.
    """

    def __init__(self, data: ImageData, seed: int = 0) -> None:
        self.data = data.subset(IMAGES, seed)
        self.seed = seed

    def each(self, model: Model, images: int = IMAGES) -> Float[Tensor, " images"]:
        """The negative bound of each of the first images, bits per dimension, float64."""
        generator = torch.Generator().manual_seed(self.seed)
        bounds = evaluate(
            model,
            self.data.take(slice(images)),
            levels=levels_to_read(model, LEVELS),
            generator=generator,
        )
        return joined(bounds).bits_per_dim.double()
