"""The scale of a decoder, for pipelines that say nothing of it."""

from __future__ import annotations

import torch

from nelbo.commands.common import say
from nelbo.data import ImageData
from nelbo.diffusion import Diffusion
from nelbo.evidence.calibration import fit_decoder_scale
from nelbo.latent import LatentDiffusion

# Images that a scale is fitted to.
_IMAGES = 256


def fit_missing_scale(
    run_path: str,
    model: Diffusion | LatentDiffusion,
    data: ImageData,
    seed: int,
    *,
    quiet: bool = False,
) -> None:
    """Give a latent model without a decoder scale the one that suits some of the images best."""

    if not isinstance(model, LatentDiffusion) or model.decoder_scale is not None:
        return
    model.decoder_scale = fit_decoder_scale(
        model, data.subset(_IMAGES, seed), generator=torch.Generator().manual_seed(seed)
    )
    if not quiet:
        say(
            f"{run_path} has no scale of its decoder; the one that suits these images best, "
            f"{model.decoder_scale:.4f}, flatters the bound a little"
        )
