"""How good drawn images are: compared with those that the model was trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.data import ImageData
from nelbo.data.mentions import mention
from nelbo.data.splits import EmptySplitError
from nelbo.evidence.sample_reading import LEAST_REAL, SampleReading, read_samples
from nelbo.evidence.vision_model import check_vision_model
from nelbo.runs.run_data import ImageModel, RunSource, data_for_run


@dataclass(frozen=True)
class Compared:
    """The images that drawn ones are compared with.

    Attributes:
        train: those trained on.
        held_out: those held out; None where there are none.
        features: the directory of a vision model.
    """

    train: ImageData
    held_out: ImageData | None
    features: Path | None

    @classmethod
    def load(cls, source: RunSource, model: ImageModel, features: Path | None) -> Compared:
        """The images in the size of the model.

        Raises:
            NelboError: too few images, or as `data_for_run`.
        """
        if features is not None:
            check_vision_model(features)
        source = replace(source, resize=True)
        train = data_for_run(source, model)
        mention(train)
        if len(train) < LEAST_REAL:
            raise NelboError(
                f"--quality compares with at least {LEAST_REAL} images, {train.source} has "
                f"{len(train)} to train on"
            )
        try:
            held_out = data_for_run(replace(source, split="test"), model)
        except EmptySplitError:
            held_out = None
        return cls(train, held_out, features)

    def labels(self, n: int, classes: int, seed: int) -> Tensor | None:
        """Classes to draw, as often as the images have them; None where they have none."""
        labels = self.train.labels
        if labels is None or not classes:
            return None
        known = labels[(labels >= 0) & (labels < classes)]
        if len(known) == 0:
            return None
        generator = torch.Generator().manual_seed(seed)
        return known[torch.randint(len(known), (n,), generator=generator)]

    def read(self, samples: torch.Tensor, seed: int) -> SampleReading:
        """What the samples, at least two, are found to be."""
        reading = read_samples(
            samples, self.train, self.held_out, features=self.features, seed=seed
        )
        assert reading is not None  # there are enough of both
        return reading
