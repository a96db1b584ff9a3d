"""The priors that a time is fitted with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from nelbo.data import ImageData
from nelbo.networks import AutoencoderKL
from nelbo.training.kinds.latent.build import build_latent_model
from nelbo.training.kinds.latent.latents import encode_data, shown_first
from nelbo.training.kinds.latent.objective import PriorObjective
from nelbo.training.kinds.latent.options import TrainLatent
from nelbo.training.kinds.network_size import Candidate
from nelbo.training.kinds.transformer import WIDTHS

# Channels of a UNet at the first resolution; the second has a quarter more, as by default.
BASES = (16, 32, 48, 64, 96, 128, 192, 256)


def candidates(
    options: TrainLatent, autoencoder: AutoencoderKL, data: ImageData, images: int
) -> Iterator[Candidate]:
    """Priors of every width, from the narrowest on, each with the text encoder that it trains.

    Args:
        options: what is asked for; the widths are to be chosen.
        autoencoder: trained or not, where to time.
        data: the images.
        images: of a step.
    """
    shown = shown_first(data)
    few = data.take(shown[torch.arange(images) % len(shown)])
    for widths in _widths(options):
        with torch.random.fork_rng([]):
            model = build_latent_model(autoencoder, few, replace(options.model, widths=widths))
        latents = encode_data(model, few)
        generator = torch.Generator(latents.mean.device).manual_seed(0)
        dropout = options.training.label_dropout
        objective = PriorObjective(model, condition_dropout=dropout).train()
        yield Candidate(
            widths,
            sum(parameter.numel() for parameter in model.prior.parameters()),
            lambda: objective(latents, generator=generator).loss.backward(),  # noqa: B023
        )


def _widths(options: TrainLatent) -> list[tuple[int, ...]]:
    if options.model.network == "dit":
        return [(width,) for width in WIDTHS]
    return [(base, base + base // 4) for base in BASES]
