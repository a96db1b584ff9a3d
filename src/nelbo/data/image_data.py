"""Images of one size as integer pixel levels, in memory or mapped from a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import listed
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import some_places
from nelbo.data.labels import index_labels
from nelbo.data.pixel_key import pixel_keys
from nelbo.data.splits import ALL, name_key
from nelbo.data.stream import ImageStream

_UINT8_LEVELS = 256


@dataclass(frozen=True)
class ImageData:
    """Images with their labels and captions, if any.

    `images` may be mapped from a file: a slice of it, and so a split or a batch, is a view, and
    pixels are read when they are indexed.

    Attributes:
        source: where they came from: a name, or the path of a folder.
        images: pixel levels 0..levels−1, (N, C, H, W) uint8.
        levels: number of pixel levels.
        names: name of each image: its file, or its index in the source.
        labels: class of each image, (N,) int64, −1 without one; or None.
        label_names: the name of each class.
        skipped: files that could not be read, with the reason.
        unmatched: lines of captions and labels that match no picture, if these are allowed.
        notes: what was left out of the source, and how pictures were adapted.
        captions: a text for each image, None without one; or None.
        credit: attribution and licence of the images.
        pixel_keys: `nelbo.data.pixel_key` of each, (N,) int64, if known without reading the pixels,
            as in the cache; or None.
        stream: the training images of a streamed set, of which `images` holds only the first.
        splits: the split of each image, "train", "validation" or "test"; or None.
        duplicates: number of test images that are also in other splits; see `duplicates`.
        left_out: number of duplicates that were left out here.
        controls: a spatial control of each, 0..255, (N, C, H, W) uint8; or None. See
            `nelbo.data.controls`.
        split_note: how the splits were formed, if the names in the source leave it open.

    Raises:
        NelboError: no images, a pixel level outside 0..levels−1, or another number of names,
            labels, captions, keys or controls than of images.
    """

    source: str
    images: UInt8[Tensor, "n channels height width"]
    levels: int
    names: tuple[str, ...]
    labels: Int[Tensor, " labels"] | None = None
    label_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    captions: tuple[str | None, ...] | None = None
    credit: str | None = None
    pixel_keys: Int[Tensor, " keys"] | None = None
    stream: ImageStream | None = None
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    splits: tuple[str, ...] | None = None
    split_note: str | None = None
    duplicates: int = 0
    left_out: int = 0
    controls: UInt8[Tensor, "controls channels_of_control height width"] | None = None

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise NelboError(f"{self.source} holds no images")
        # Any uint8 fits 256 pixel levels: do not read a mapped file for this.
        highest = int(self.images.max()) if self.levels < _UINT8_LEVELS else 0
        if highest >= self.levels:
            raise NelboError(
                f"{self.source} is declared with {self.levels} pixel levels but holds pixel level "
                f"{highest}; expected 0..{self.levels - 1}"
            )
        if self.labels is not None:  # of fewer bits, and maybe without the −1 of no label
            object.__setattr__(self, "labels", self.labels.long())
        for kind in ("names", "labels", "captions", "pixel_keys", "splits", "controls"):
            values = getattr(self, kind)
            if values is not None and len(values) != len(self.images):
                raise NelboError(
                    f"{self.source} has {len(self.images)} images but {len(values)} {kind}"
                )

    def __repr__(self) -> str:
        """What the images are, in a line."""
        shape = "×".join(map(str, self.shape))
        found = [f"{len(self):,} images of {shape}", f"{self.levels} pixel levels"]
        found += [f"{self.num_classes} classes"] if self.num_classes else []
        found += ["captions"] if self.has_captions else []
        found += ["controls"] if self.controls is not None else []
        return f"ImageData({self.source}: {', '.join(found)})"

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

    @property
    def has_captions(self) -> bool:
        """Whether any image has one."""
        return any(self.captions or ())

    @property
    def keys(self) -> Int[Tensor, "n 2"]:
        """Two hashes of each image, by which a changed set is detected: of its name and its pixels.

        Pixels are read only if their hashes are not cached.
        """
        names = torch.tensor([name_key(name) for name in self.names])
        pixels = pixel_keys(self.images) if self.pixel_keys is None else self.pixel_keys
        return torch.stack([names, pixels], 1)

    def take(self, index: Tensor | slice) -> ImageData:
        """Some of the images, in the order of `index`; of a slice a view."""
        return replace(
            self,
            images=self.images[index],
            names=_take(self.names, index),
            labels=None if self.labels is None else self.labels[index],
            captions=None if self.captions is None else _take(self.captions, index),
            pixel_keys=None if self.pixel_keys is None else self.pixel_keys[index],
            splits=None if self.splits is None else _take(self.splits, index),
            controls=None if self.controls is None else self.controls[index],
            stream=None,
        )

    def of_split(self, split: str) -> ImageData:
        """Those of one split, or of all."""
        if split == ALL:
            return self
        return self.take(torch.tensor([part == split for part in self.splits or ()]))

    def subset(self, count: int, seed: int) -> ImageData:
        """At most `count` of the images, drawn at random, in their order."""
        return self if len(self) <= count else self.take(some_places(len(self), count, seed))

    def with_classes(self, names: Sequence[str]) -> ImageData:
        """The images with the classes of these names, in this order, as a model was trained on.

        Images of other classes have none, which is noted.
        """
        if self.labels is None or self.label_names == tuple(names):
            return self
        place = [index_labels([name], names).item() for name in self.label_names]
        # Without a label, −1, the last entry.
        labels = torch.tensor([*place, -1])[self.labels]
        lost = [name for name, at in zip(self.label_names, place, strict=True) if at < 0]
        without = int(((labels < 0) & (self.labels >= 0)).sum())
        note = (
            f"{without} of {len(self)} images are of classes that the model does "
            f"not have ({listed(lost)}; it has {listed(names)}), and are taken as without a class"
        )
        notes = (*self.notes, note) if without else self.notes
        if not (labels >= 0).any():
            return replace(self, labels=None, label_names=(), notes=notes)
        return replace(self, labels=labels, label_names=tuple(names), notes=notes)

    def resize(self, height: int, width: int) -> ImageData:
        """The images in another size, with pixel levels interpolated and rounded."""
        resized = torch.nn.functional.interpolate(
            self.images.float(), (height, width), mode="bilinear", antialias=True
        )
        images = resized.round().clamp(0, self.levels - 1).to(torch.uint8)
        return replace(self, images=images, pixel_keys=None, stream=None, controls=None)

    def condition(self, index: Tensor | slice = slice(None)) -> Condition | None:
        """The labels of some images as a condition; None without labels."""
        return None if self.labels is None else Condition(label=self.labels[index])

    def batches(self, size: int) -> Iterator[ImageData]:
        """The images in order, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))


def _take(values: tuple[Any, ...], index: Tensor | slice) -> tuple[Any, ...]:
    if isinstance(index, slice):
        return values[index]
    return tuple(values[i] for i in torch.arange(len(values))[index].tolist())
