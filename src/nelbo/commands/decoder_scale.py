"""The scale of a decoder, for pipelines that say nothing of it."""

from __future__ import annotations

from typing import Any

import torch

from nelbo.chain.model import Model
from nelbo.commands.common import say
from nelbo.data import ImageData
from nelbo.evidence.calibration import fit_decoder_scale

# Images that a scale is fitted to.
_IMAGES = 256


def fit_missing_scale(
    run_path: str,
    model: Model,
    data: ImageData,
    seed: int,
    *,
    quiet: bool = False,
) -> None:
    """Give a latent model without a decoder scale the one that suits some of the images best."""

    if not model.lacks_scale:
        return
    latent: Any = model
    latent.decoder_scale = fit_decoder_scale(
        latent, data.subset(_IMAGES, seed), generator=torch.Generator().manual_seed(seed)
    )
    if not quiet:
        say(
            f"{run_path} has no scale of its decoder; the one that suits these images best, "
            f"{latent.decoder_scale:.4f}, flatters the bound a little"
        )
