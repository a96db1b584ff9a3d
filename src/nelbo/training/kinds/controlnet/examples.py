"""What a ControlNet is trained on: states of the base's chain, with their conditions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from nelbo.chain.conditioning import Condition
from nelbo.diffusion.objectives import part_of_noise
from nelbo.training.images import TrainingImages
from nelbo.training.kinds.latent.latents import encode_images
from nelbo.training.task import Batch, ImageSource, flipped

Drawn = tuple[Tensor, Condition | None, Tensor | None]


class Examples(ABC):
    """The states of the images to train on."""

    @abstractmethod
    def draw(self, batch: Batch, images: Tensor, mirrored: Tensor, dropped: Tensor) -> Drawn:
        """x_0 of a part of a batch, its condition, and what each image costs beside the chain.

        Args:
            batch: the batch, and the part of it.
            images: the pixel levels of the part.
            mirrored: which of the part are mirrored.
            dropped: from which of the part text or label is withheld.
        """


class PixelExamples(Examples):
    """Images themselves, with their labels where the base takes any."""

    def __init__(self, base: Any, source: ImageSource) -> None:
        self.base, self.source = base, source

    def draw(self, batch: Batch, images: Tensor, mirrored: Tensor, dropped: Tensor) -> Drawn:
        """As `Examples.draw`."""
        x_0 = self.base.data.to_network(flipped(images, mirrored)).to(self.base.device)
        labels = self.source.labels(batch.examples) if self.base.num_classes else None
        if labels is None:
            return x_0, None, None
        label = labels[batch.part.slice].masked_fill(dropped.cpu(), -1)
        return x_0, Condition(label=label.to(self.base.device)), None


class LatentExamples(Examples):
    """Latents that are encoded once, with the captions as the base's text encoder reads them."""

    def __init__(self, base: Any, images: TrainingImages, *, mirrored: bool) -> None:
        captions = None
        if base.text is not None:
            captions = images.train.captions or (None,) * len(images.train)
        self.latents = encode_images(base, images, captions, mirrored=mirrored)
        self.count = len(images.train)

    def draw(self, batch: Batch, images: Tensor, mirrored: Tensor, dropped: Tensor) -> Drawn:
        """As `Examples.draw`."""
        device, part = self.latents.mean.device, batch.part
        place = batch.examples[part.slice] + self.count * mirrored.cpu()
        some = self.latents.take(place.to(device))
        z = some.mean + some.stddev * part_of_noise(some.mean, part, batch.generator)
        return z, some.condition(dropped.to(device)), some.cost


def examples_of(
    base: Any, images: TrainingImages, source: ImageSource, *, mirrored: bool
) -> Examples:
    """The states of the images to train on, as the base has them."""
    if base.chain is base:
        return PixelExamples(base, source)
    return LatentExamples(base, images, mirrored=mirrored)
