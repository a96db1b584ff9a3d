"""A set of images of one size in memory, as integer pixel levels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from nelbo.conditioning import Condition
from nelbo.errors import NelboError

SPLITS = ("train", "test", "all")


@dataclass(frozen=True)
class ImageData:
    """Images with their labels, if any.

    Attributes:
        source: where they came from: a name, or the path of a folder.
        images: pixel levels 0..levels−1, (N, C, H, W) uint8.
        levels: how many levels a pixel has.
        names: what to call each image: its file, or its index in the source.
        labels: class of each image, (N,) int64, or None.
        label_names: the name of each class.
        skipped: files that could not be read, with the reason.

    Raises:
        NelboError: no images, a level outside 0..levels−1, or labels of another number.
    """

    source: str
    images: UInt8[Tensor, "n channels height width"]
    levels: int
    names: tuple[str, ...]
    labels: Int[Tensor, " labels"] | None = None
    label_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise NelboError(f"{self.source} holds no images")
        highest = int(self.images.max())
        if highest >= self.levels:
            raise NelboError(
                f"{self.source} is declared with {self.levels} levels but holds level {highest}; "
                f"expected 0..{self.levels - 1}"
            )
        if self.labels is not None and len(self.labels) != len(self.images):
            raise NelboError(
                f"{self.source} has {len(self.images)} images but {len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 without labels."""
        return len(self.label_names)

    def take(self, index: Tensor | slice) -> ImageData:
        """Some of the images, in the order of `index`."""
        chosen = torch.arange(len(self))[index].tolist()
        return replace(
            self,
            images=self.images[index],
            names=tuple(self.names[i] for i in chosen),
            labels=None if self.labels is None else self.labels[index],
        )

    def resize(self, height: int, width: int) -> ImageData:
        """The images in another size, levels interpolated and rounded."""
        resized = torch.nn.functional.interpolate(
            self.images.float(), (height, width), mode="bilinear", antialias=True
        )
        images = resized.round().clamp(0, self.levels - 1).to(torch.uint8)
        return replace(self, images=images)

    def condition(self, index: Tensor | slice = slice(None)) -> Condition | None:
        """The labels of some images as a condition; None without labels."""
        return None if self.labels is None else Condition(label=self.labels[index])

    def batches(self, size: int) -> Iterator[ImageData]:
        """The images in order, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))
