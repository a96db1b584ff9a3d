"""Controls of pictures: made of them by an annotator, or given as pictures of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import did_you_mean, listed
from nelbo.data.annotators import ANNOTATORS, OF_LINES, opencv
from nelbo.data.control_fields import controls_in_metadata
from nelbo.data.image_data import ImageData
from nelbo.data.listing import stem_of
from nelbo.data.reader import CONTRAST
from nelbo.data.sources import has_crops, load_data, with_column
from nelbo.data.splits import ALL

# Of a control: a picture in colour.
CHANNELS = 3
# A control of lines that is lighter than this on average is one of dark lines on paper.
_PAPER = 0.5


def light_lines(
    control: Float[Tensor, "channels height width"], name: str | None
) -> Float[Tensor, "channels height width"]:
    """A control in [0, 1] that a user drew, inverted where it has lines that are dark on light.

    Args:
        control: the picture.
        name: of the annotator that the controls in training were made by.
    """
    return 1 - control if name in OF_LINES and float(control.mean()) > _PAPER else control


class Controls(ABC):
    """The controls of the images of a set."""

    @abstractmethod
    def of(
        self, images: Tensor, index: Tensor, key: Sequence[int]
    ) -> UInt8[Tensor, "n three height width"]:
        """The control of each of some images, 0..255.

        Args:
            images: their pixel levels, (n, C, H, W) uint8.
            index: which of the set they are, (n,).
            key: what, with the place in the set, decides on all that is left to chance.
        """

    def of_all(self, data: ImageData, seed: int = 0) -> ImageData:
        """The images with their controls, the same ones each time."""
        every = torch.arange(len(data))
        return replace(data, controls=self.of(data.images, every, (seed,)))


@dataclass(frozen=True)
class Annotated(Controls):
    """Controls that an annotator makes of the images.

    Attributes:
        name: of the annotator.
        levels: how many levels a pixel of the images has.
    """

    name: str
    levels: int = 256

    def of(
        self, images: Tensor, index: Tensor, key: Sequence[int]
    ) -> UInt8[Tensor, "n three height width"]:
        """As `Controls.of`, an image at a time."""
        annotate = ANNOTATORS[self.name]
        made = []
        for image, place in zip(images, index.tolist(), strict=True):
            pixels = image if self.levels == 256 else image.float() * (255 / (self.levels - 1))
            picture = pixels.round().byte() if self.levels != 256 else pixels
            picture = picture.expand(CHANNELS, -1, -1).permute(1, 2, 0).contiguous().numpy()
            drawn = annotate(picture, np.random.default_rng((*key, place)))
            control = torch.from_numpy(np.ascontiguousarray(drawn))
            made.append(control.permute(2, 0, 1) if control.ndim == 3 else control[None])
        return torch.stack([control.expand(CHANNELS, -1, -1) for control in made])


@dataclass(frozen=True)
class Given(Controls):
    """Controls that are pictures of their own, one for each image of the set in its order.

    Attributes:
        pictures: 0..255, (N, 3, H, W) uint8.
    """

    pictures: UInt8[Tensor, "n three height width"]

    def of(
        self, images: Tensor, index: Tensor, key: Sequence[int]
    ) -> UInt8[Tensor, "n three height width"]:
        """As `Controls.of`."""
        return self.pictures[index]


def controls_of(asked: str, data: ImageData) -> Controls:
    """The controls of a set of images.

    Args:
        asked: the name of an annotator; a folder of pictures with the names of the images, whatever
            their suffix; or a column of pictures in the table that the images are of, or in the
            metadata of their folder.
        data: the images.

    Raises:
        NelboError: none of these, or pictures that are not those of the images.
        MissingExtraError: an annotator without OpenCV.
    """
    if asked in ANNOTATORS:
        opencv()
        if data.shape[0] not in (1, CHANNELS):
            raise NelboError(f"{data.source} has {data.shape[0]} channels: {asked} needs 1 or 3")
        return Annotated(asked, data.levels)
    if data.stream is not None:
        raise NelboError(
            f"{data.source} is a stream, whose controls are made by an annotator: give one of "
            f"{listed([*ANNOTATORS])}, or leave stream= out"
        )
    _, height, width = data.shape
    folder = Path(data.source)
    # A path without a name would be that of the working directory.
    is_folder = bool(asked) and Path(asked).is_dir()
    source = asked if is_folder else with_column(data.source, asked)
    if has_crops(data.source) and source in (asked, None):
        raise NelboError(
            f"{data.source} has several crops of each picture, and pictures beside them are not "
            f"cropped alike: give one of the annotators {listed([*ANNOTATORS])}, or leave crops out"
        )
    if folder.is_dir() and source is None:
        named = controls_in_metadata(folder, asked, data, CHANNELS)
        if named is not None:
            return Given(named)
    if source is None:
        what = "an annotator, a folder of pictures, or a column of the table or metadata"
        near = did_you_mean(asked, ANNOTATORS)
        raise NelboError(
            f"--control {asked!r}{near}: expected {what}; annotators are {listed([*ANNOTATORS])}"
        )
    # Sketches in light lines on nothing would be blank on white.
    pictures = load_data(source, ALL, size=(height, width), channels=CHANNELS, background=CONTRAST)
    return Given(_matching(pictures, data))


def _matching(controls: ImageData, data: ImageData) -> Tensor:
    """The controls in the order of the images, by their names without suffix.

    Raises:
        NelboError: an image without one.
    """
    place = {stem_of(name): i for i, name in enumerate(controls.names)}
    missing = [name for name in data.names if stem_of(name) not in place]
    if missing:
        broken = f" (cannot be read: {'; '.join(controls.skipped[:1])})" if controls.skipped else ""
        raise NelboError(
            f"{controls.source} holds {len(controls)} controls{broken}, and none for "
            f"{len(missing)} of the {len(data)} images of {data.source}; the first is "
            f"{missing[0]}: name each control as its picture"
        )
    return controls.images[torch.tensor([place[stem_of(name)] for name in data.names])]
