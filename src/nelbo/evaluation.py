"""Read the bound of a whole dataset, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from nelbo.bound import Bound
from nelbo.conditioning import Condition
from nelbo.data import ImageData
from nelbo.diffusion import Diffusion, Pixels
from nelbo.errors import NelboError
from nelbo.latent import LatentDiffusion


def evaluate(
    model: Diffusion | LatentDiffusion,
    data: ImageData,
    *,
    levels: int | None = None,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> Iterator[Bound]:
    """The bound of every image in order, one `Bound` a batch, on the CPU.

    A class-conditional model is told the labels, one of text the captions. Join the batches with
    `Bound.cat`.

    Args:
        model: the model, evaluated where its weights are.
        data: the images.
        levels: levels an image, None for all of them; see `TractableMHVAE.elbo`.
        batch_size: images at a time.
        generator: the source of all noise.

    Raises:
        NelboError: images of another size or number of levels than the model's.
    """
    check_fits(model, data)
    assert isinstance(model.data, Pixels)
    device = next(model.parameters()).device
    for batch in data.batches(batch_size):
        x_0 = model.data.to_network(batch.images).to(device)
        condition = condition_for(model, batch)
        # Not inference mode: its tensors could not be used in a later training step.
        with torch.no_grad():
            bound = model.elbo(x_0, condition, levels=levels, generator=generator)
        yield bound.to("cpu")


def condition_for(model: Diffusion | LatentDiffusion, data: ImageData) -> Condition | None:
    """What the model is told of the images: their captions, or their labels, on its device.

    A model of text is told the empty prompt of images without a caption.
    """
    if isinstance(model, Diffusion) or model.text is None:
        return labels_for(model, data)
    captions = data.captions or [""] * len(data)
    with torch.no_grad():
        return model.condition_on([caption or "" for caption in captions])


def labels_for(model: Diffusion | LatentDiffusion, data: ImageData) -> Condition | None:
    """The labels of the images for a class-conditional model, on its device; else None."""
    condition = data.condition() if model.num_classes else None
    return None if condition is None else condition.to(next(model.parameters()).device)


def check_fits(model: Diffusion | LatentDiffusion, data: ImageData) -> None:
    """Raise `NelboError` unless the images have the model's levels, channels and size."""
    if not isinstance(model.data, Pixels):
        raise NelboError("the model has no pixel levels, so it gives images no probability")
    if model.data.levels != data.levels:
        raise NelboError(
            f"{data.source} has {data.levels} pixel levels, the model has {model.data.levels}"
        )
    if model.shape != data.shape:
        raise NelboError(f"{data.source} has images of shape {data.shape}, the model {model.shape}")
