"""Images as a model takes them, with what it is conditioned on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nelbo.base.arguments import check_kind, described
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.evidence import check_bits
from nelbo.chain.model import Model, check_model
from nelbo.data import ImageData


def inputs(model: Model, data: ImageData) -> tuple[Tensor, Condition | None]:
    """Images as a model takes them, (B, C, H, W), with their condition, on its device.

    Raises:
        NelboError: images of another size or number of levels than the model's.
    """
    check_fits(model, data)
    x_0 = model.data.to_network(data.images).to(model.device)
    return x_0, condition_for(model, data)


def check_image_data(data: Any) -> None:
    """Raise `NelboError` for what is no `ImageData`, as a tensor, which lacks levels and names."""
    check_kind("data", data, ImageData, "ImageData, such as nelbo.data.load_data returns")


def check_pictures(**pictures: Any) -> None:
    """Raise `NelboError` unless each is a tensor of pixel levels, (N, C, H, W), by name.

    Samples as a model draws them, in [−1, 1], would be taken for the two darkest levels.
    """
    for name, images in pictures.items():
        if not isinstance(images, Tensor) or images.is_floating_point() or images.ndim != 4:
            raise NelboError(
                f"{name} is {described(images)}, expected a tensor of pixel levels (N, C, H, W), "
                "which are integers; model.data.shown makes them of samples"
            )


def check_probability(name: str, model: Model, data: ImageData) -> None:
    """Raise `NelboError`, before long work, for a model that gives images no probability."""
    if model.chain is None:
        with torch.no_grad():
            check_bits(**{name: model.evidence(*inputs(model, data.take(slice(1))))})


def condition_for(model: Model, data: ImageData) -> Condition | None:
    """What the model is conditioned on for each image, its control included where it has one; see
    `Model.condition_for`."""
    condition = model.condition_for(len(data), data.labels, data.captions)
    if data.controls is None or model.control_shape is None:
        return condition
    control = data.controls.to(model.device).float() / 255
    return replace(condition or Condition(), control=control)


def check_fits(model: Model, data: ImageData) -> None:
    """Raise `NelboError` unless the images have the model's levels, channels and size."""
    check_model(model)
    check_images_fit(model, data)


def check_images_fit(model: Any, data: ImageData) -> None:
    """As `check_fits`, of anything with `data` and `shape`, such as an autoencoder alone."""
    check_image_data(data)
    model.data.check_levels(data.levels, data.source)
    if model.shape != data.shape:
        raise NelboError(
            f"{data.source} has images of shape {data.shape}, the model {model.shape}: load them "
            "in its size and channels (--size, --channels)"
        )
