"""Where in each of a few images the bits go."""

from __future__ import annotations

import torch

from nelbo.chain.bound import BoundMap
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.evidence.cost import levels_to_evaluate
from nelbo.evidence.inputs import inputs
from nelbo.latent.bound import LatentBoundMap

# Levels an image for maps, which are looked at and not read off.
MAP_LEVELS = 100


def map_bits(
    model: Model, data: ImageData, seed: int, *, levels: int = MAP_LEVELS
) -> BoundMap | LatentBoundMap | None:
    """Where in each of a few images the bits go, from `levels` levels; None if it is not known."""
    x_0, condition = inputs(model, data)
    with torch.no_grad():
        return model.bound_map(
            x_0,
            condition,
            levels=levels_to_evaluate(levels, model),
            generator=torch.Generator().manual_seed(seed),
        )
