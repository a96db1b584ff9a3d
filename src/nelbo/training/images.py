"""The images of a training run, by what they are for."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property

from nelbo.data import ImageData, load_data
from nelbo.data.duplicates import without_duplicates
from nelbo.data.size import Size
from nelbo.data.sources import absolute
from nelbo.data.splits import PARTS, TEST, TRAIN, VALIDATION, EmptySplitError


@dataclass(frozen=True)
class TrainingImages:
    """What is trained on, what choices are made by, and what is reported on.

    Attributes:
        source: where they come from, as it is found again from another directory.
        train: the images to train on.
        validation: the images that are read while training, and that choices are made by.
        test: the images that figures are reported on.
        watched: the split that `validation` is of: where there is no such split, another one.
    """

    source: str
    train: ImageData
    validation: ImageData
    test: ImageData
    watched: str = VALIDATION

    @classmethod
    def load(
        cls,
        source: str,
        size: int | str | Size | None,
        channels: int | None,
        *,
        validation: bool = True,
    ) -> TrainingImages:
        """The splits of a source, alike; arguments and errors as `nelbo.data.load_data`.

        A set too small for a validation split watches the images that it trains on, and a run from
        before there was one goes on to watch those for test.
        """
        train = load_data(source, TRAIN, size=size, channels=channels, validation=validation)

        def like(split: str) -> ImageData:
            channels = train.shape[0]
            return load_data(source, split, size=size, channels=channels, validation=validation)

        test, place = like(TEST), absolute(source)
        if not validation:
            return cls(place, train, test, test, TEST)
        with contextlib.suppress(EmptySplitError):
            return cls(place, train, like(VALIDATION), test)
        return cls(place, train, train, test, TRAIN)

    @cached_property
    def reported(self) -> ImageData:
        """The test images that are in no other split, which figures are reported on."""
        seen = [self.train, self.validation] if self.watched == VALIDATION else [self.train]
        return without_duplicates(self.test, *seen)

    @property
    def for_fits(self) -> ImageData:
        """What a few numbers are fitted to once the network is trained, never images for test."""
        return self.validation if self.watched == VALIDATION else self.train

    @property
    def counts(self) -> dict[str, int]:
        """How many images each split has; none of train where they are streamed."""
        parts = (self.train, self.validation, self.test)
        counts = {
            split: len(data)
            for split, data in zip(PARTS, parts, strict=True)
            if data.stream is None
        }
        return counts if self.watched == VALIDATION else counts | {VALIDATION: 0}
