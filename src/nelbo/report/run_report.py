"""What a report shows of a run, of any kind of model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.bound import BoundMap
from nelbo.chain.evidence import Evidence, Summary
from nelbo.chain.model import Model
from nelbo.coding.rate_distortion import RateDistortion
from nelbo.data.image_data import ImageData
from nelbo.evidence.explained import Explained
from nelbo.evidence.extremes import Extremes
from nelbo.evidence.file_sizes import FileSizes
from nelbo.evidence.sample_reading import SampleReading
from nelbo.latent.bound import LatentBoundMap
from nelbo.report import plots
from nelbo.report.strips import Strip
from nelbo.report.tables import bits_unit

# How many of the least, and of the most, surprising images are shown.
EXTREMES = 6


@dataclass(frozen=True)
class RunReport:
    """What a report shows; every part that is empty or None is left out.

    Attributes:
        title: of the page.
        model: the model that was evaluated.
        samples: the model's samples, pixel levels, (n, C, H, W).
        bounds: the evidence by the name of its split; "test", or else the last, makes the headline.
        real: real images to stand beside the samples, pixel levels, (m, C, H, W).
        subtitle: a line below the title.
        facts: names and values at the top, beside those of the model itself.
        forward: the forward process on a few images.
        reverse: the reverse process of a few samples.
        evaluated: the images of the headline's bound in its order, to show the least and the most
            surprising of them.
        closer: the least and the most surprising of them, evaluated anew; by default the bound
            decides, and no place is stated.
        maps: the bound pixel by pixel of the images of `closer`, or of those that `extremes` names,
            the least surprising first.
        metrics: rows of the training loop: step, seconds, loss, bits_per_dim, ...
        settings: nested mappings.
        names: what was asked for in each sample, such as its class; empty where nothing was.
        real_names: the same of the real images.
        prompts: what each sample was to show, where the model reads prompts.
        beside: a held-out image of each prompt, pixel levels, (n, C, H, W).
        pairs: held-out images, each followed by its reconstruction by the autoencoder, pixel
            levels, (2m, C, H, W).
        loss: what the loss of `metrics` is, a sentence with its unit.
        files: what image files of the evaluated images take.
        reading: what the samples were found to be.
        controls: what each sample was drawn by, 0..255, where the model reads a control; `real` are
            then the images that these are of.
        explained: what the control explains.
        coded: rate and distortion of some test images, coded coarse to fine.

    Raises:
        NelboError: `evaluated` that has another number of images than the headline's bound, or
            another number of prompts or images beside than samples.
    """

    title: str
    model: Model
    samples: UInt8[Tensor, "n channels height width"]
    bounds: Mapping[str, Evidence]
    real: UInt8[Tensor, "m channels height width"] | None = None
    subtitle: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    forward: Strip | None = None
    reverse: Strip | None = None
    evaluated: ImageData | None = None
    closer: tuple[Extremes, ...] | None = None
    maps: BoundMap | LatentBoundMap | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    names: Sequence[str] = ()
    real_names: Sequence[str] = ()
    files: FileSizes | None = None
    reading: SampleReading | None = None
    prompts: Sequence[str] = ()
    beside: UInt8[Tensor, "n channels height width"] | None = None
    pairs: UInt8[Tensor, "pairs channels height width"] | None = None
    loss: str = "The objective that the optimiser lowered."
    controls: UInt8[Tensor, "n three height width"] | None = None
    explained: Explained | None = None
    coded: RateDistortion | None = None

    def __post_init__(self) -> None:
        counts = {"prompts": self.prompts or None, "images beside": self.beside}
        for what, some in counts.items():
            if some is not None and len(some) != len(self.samples):
                raise NelboError(f"the report has {len(some)} {what}, expected {len(self.samples)}")
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
    def bound(self) -> Evidence | None:
        """The evidence of the headline."""
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
    def summaries(self) -> dict[str, Summary]:
        """The means of every bound."""
        return {split: bound.mean() for split, bound in self.bounds.items()}

    @property
    def density(self) -> bool:
        """Whether the bound is one on a density."""
        return self.model.data.is_density

    @property
    def unit(self) -> str:
        """What bits per dimension are called here."""
        return bits_unit(self.density)

    @property
    def pixel_levels(self) -> int:
        """How many levels the pixels have that are shown."""
        return self.model.data.shown_levels
