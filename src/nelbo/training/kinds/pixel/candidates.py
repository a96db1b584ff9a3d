"""The networks of pixels that a time is fitted with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from nelbo.data import ImageData
from nelbo.diffusion.objectives import Objective
from nelbo.training.kinds.network_size import Candidate
from nelbo.training.kinds.pixel.build import build_model, default_depth
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.task import trained_module
from nelbo.training.kinds.transformer import WIDTHS

# Channels of a UNet at the first resolution; the others have twice as many.
BASES = (16, 24, 32, 48, 64, 96, 128, 192, 256)


def candidates(
    config: ModelConfig, data: ImageData, device: torch.device, images: int
) -> Iterator[Candidate]:
    """Models of every width, from the narrowest on.

    Args:
        config: the model, whose widths are to be chosen.
        data: the images.
        device: where to.
        images: of a step.
    """
    for widths in _widths(config, data):
        with torch.random.fork_rng([]):
            model = build_model(replace(config, widths=widths), data).to(device).train()
        weights = sum(parameter.numel() for parameter in model.parameters())
        generator = torch.Generator(device).manual_seed(0)
        x_0 = torch.rand((images, *data.shape), generator=generator, device=device) * 2 - 1
        objective = trained_module(model, Objective())
        yield Candidate(
            widths,
            weights,
            lambda: objective(x_0, None, generator=generator).loss.backward(),  # noqa: B023
        )


def _widths(config: ModelConfig, data: ImageData) -> list[tuple[int, ...]]:
    if config.network == "dit":
        return [(width,) for width in WIDTHS]
    depth = default_depth(*data.shape[1:])
    return [(base, *[2 * base] * (depth - 1)) for base in BASES]
