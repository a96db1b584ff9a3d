"""What a report tells of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.bound import Bound, BoundMap, BoundSummary
from nelbo.chain.data_space import Continuous
from nelbo.data.image_data import ImageData
from nelbo.diffusion.model import Diffusion
from nelbo.evidence.extremes import Extremes
from nelbo.evidence.file_sizes import FileSizes
from nelbo.evidence.sample_reading import SampleReading
from nelbo.report import plots
from nelbo.report.strips import Strip
from nelbo.report.tables import bits_unit

# How many of the least, and of the most, surprising images are shown.
EXTREMES = 6


@dataclass(frozen=True)
class RunReport:
    """What a report tells; every part that is empty or None is left out.

    Attributes:
        title: of the page.
        model: the model that was evaluated.
        real: real images, pixel levels, (n, C, H, W).
        samples: the model's samples, pixel levels, (n, C, H, W).
        bounds: by the name of their split; "test", or else the last, makes the headline.
        subtitle: a line below the title.
        facts: names and values to tell at the top, beside what the model itself tells.
        forward: the forward process on a few images.
        reverse: the reverse process of a few samples.
        evaluated: the images of the headline's bound in its order, to show the least and the most
            surprising of them.
        closer: the least and the most surprising of them, evaluated anew; by default the bound
            decides, and no place is stated.
        maps: the bound pixel by pixel of the images of `closer`, or of those that `extremes` names,
            the least surprising first.
        metrics: rows of the training loop: step, seconds, loss, bits_per_dim, ...
        settings: nested mappings or dataclasses.
        levels: how many levels the pixels of `real` and `samples` have; the model's by default.
        names: what was asked for in each sample, such as its class; empty where nothing was.
        real_names: the same of the real images.
        files: what image files of the evaluated images take.
        reading: what the samples were found to be.

    Raises:
        NelboError: `evaluated` that has another number of images than the headline's bound.
    """

    title: str
    model: Diffusion
    real: UInt8[Tensor, "n channels height width"]
    samples: UInt8[Tensor, "m channels height width"]
    bounds: Mapping[str, Bound]
    subtitle: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    forward: Strip | None = None
    reverse: Strip | None = None
    evaluated: ImageData | None = None
    closer: tuple[Extremes, Extremes] | None = None
    maps: BoundMap | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    levels: int | None = None
    names: Sequence[str] = ()
    real_names: Sequence[str] = ()
    files: FileSizes | None = None
    reading: SampleReading | None = None

    def __post_init__(self) -> None:
        bound = self.bound
        if bound is None or self.evaluated is None:
            return
        if len(self.evaluated) != len(bound):
            raise NelboError(
                f"the {self.headline} bound is of {len(bound)} images, but evaluated holds "
                f"{len(self.evaluated)}: give the images that were evaluated, in their order"
            )

    @property
    def headline(self) -> str | None:
        """The split whose bound is the headline."""
        return plots.front(self.bounds)

    @property
    def bound(self) -> Bound | None:
        """The bound of the headline."""
        return None if self.headline is None else self.bounds[self.headline]

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Which images of the headline's bound cost least, and which most, from the outside in.

        Raises:
            NelboError: a report without a bound.
        """
        if self.bound is None or len(self.bound) == 0:
            raise NelboError("a report without a bound has no most surprising images")
        bits = self.bound.bits_per_dim.detach().cpu()
        order = bits.nan_to_num(nan=math.inf).argsort()
        count = min(EXTREMES, max(1, len(order) // 2))
        return order[:count], order.flip(0)[:count]

    @cached_property
    def summaries(self) -> dict[str, BoundSummary]:
        """The means of every bound."""
        return {split: bound.mean() for split, bound in self.bounds.items()}

    @property
    def density(self) -> bool:
        """Whether the bound is one on a density."""
        return isinstance(self.model.data, Continuous)

    @property
    def unit(self) -> str:
        """What bits per dimension are called here."""
        return bits_unit(self.density)

    @property
    def pixel_levels(self) -> int:
        """How many levels the pixels have that are shown."""
        if self.levels is not None:
            return self.levels
        return 256 if isinstance(self.model.data, Continuous) else self.model.data.levels
