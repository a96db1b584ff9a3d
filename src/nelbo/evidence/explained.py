r"""What a control explains: the bound without it less the bound with it, in bits of an image.

.. math::
    \Delta(x, c) = \mathrm{NELBO}(x) - \mathrm{NELBO}(x \mid c)

at the same levels and noise, so that the difference varies far less than either bound. Its mean
estimates the information that the control c gives about x as far as the model uses it. With the
control of another image there is nothing to explain; where a network gains from that as well, it
has learned something else than to follow the control, such as images that its base does not know.
The bound with another image's control less that with its own is of one network, so that whatever
the ControlNet does without regard to its control cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.bound import Bound
from nelbo.chain.distributions import generator_for
from nelbo.chain.estimate import Estimate
from nelbo.chain.evidence import joined
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.evidence.evaluation import evaluate
from nelbo.evidence.reading_levels import levels_to_read

# Images and levels of each where not asked for otherwise; bands of levels.
IMAGES, LEVELS, BANDS = 128, 16, 10
NOTHING, CONTROL, SHUFFLED = "nothing", "control", "another image's control"


@dataclass(frozen=True)
class Explained:
    """The bound of the same images at the same levels and noise, conditioned on one thing and more.

    Attributes:
        bounds: by what the model is conditioned on: "nothing" and "control"; where it reads text or
            classes also "text" or "class" and "text and control"; and "another image's control",
            beside text or class where there is one.
        num_levels: T of the chain.
    """

    bounds: Mapping[str, Bound]
    num_levels: int

    @property
    def dims(self) -> int:
        """Values of an image."""
        return self.bounds[NOTHING].dims

    def bits(self, without: str, given: str) -> Float[Tensor, " images"]:
        """What the second condition explains over the first, bits of each image."""
        nats = self.bounds[without].elbo.double() - self.bounds[given].elbo.double()
        return -nats / math.log(2.0)

    def estimate(self, without: str, given: str) -> Estimate:
        """The mean of `bits` with its standard error over images, whose noise is included."""
        return Estimate.of(self.bits(without, given), 0.0)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Which differences are reported: what the control explains first, without other conditions
        and beside them, then what these explain, then the image's own control over that of another,
        and that of another by itself."""
        other = next((name for name in self.bounds if name in ("text", "class")), None)
        if other is None:
            return [(NOTHING, CONTROL), (SHUFFLED, CONTROL), (NOTHING, SHUFFLED)]
        both = f"{other} and control"
        return [
            (NOTHING, CONTROL),
            (other, both),
            (NOTHING, other),
            (CONTROL, both),
            (NOTHING, both),
            (SHUFFLED, both),
            (other, SHUFFLED),
        ]

    @property
    def base(self) -> str:
        """All else that the model is conditioned on, over which the control is the headline."""
        return self.pairs[-1][0]

    @property
    def headline(self) -> Estimate:
        """What the control explains beside all else that the model is conditioned on."""
        return next(self.estimate(a, b) for a, b in self.pairs if a == self.base)

    @property
    def shuffled(self) -> Estimate:
        """What the control of another image explains in its place."""
        return self.estimate(self.base, SHUFFLED)

    def by_level(self) -> list[LevelBand]:
        """What the control explains in each band of levels; level 1 is in the first.

        The bands add up to the mean of `bits`, in expectation.
        """
        one, two = self.bounds[NOTHING], self.bounds[CONTROL]
        nats = one.weights.double() * (one.score_matching - two.score_matching).double()
        # All but score matching: the terms of level 1, for the others are the same.
        first, second = ((b.elbo + b.total_score_matching).double() for b in (one, two))
        # A short chain has fewer bands than others.
        edges = torch.linspace(0, self.num_levels, BANDS + 1).round().long().unique()
        bands = []
        for i, (low, high) in enumerate(pairwise(edges.tolist())):
            inside = (one.levels > low) & (one.levels <= high)
            each = (nats * inside).sum(1) + (second - first if i == 0 else 0.0)
            bits = Estimate.of(each / math.log(2.0), 0.0)
            bands.append(LevelBand(low + 1, high, bits))
        return bands

    def to_json(self) -> dict[str, Any]:
        """For a program: every difference with its error, and that of the control by level."""

        def plain(estimate: Estimate) -> dict[str, float]:
            return {"bits": estimate.mean, "standard_error": estimate.standard_error}

        return {
            "images": len(self.bounds[NOTHING]),
            "explained": [
                {"without": a, "given": b, **plain(self.estimate(a, b))} for a, b in self.pairs
            ],
            "by_level": [
                {"from": band.low, "to": band.high, **plain(band.bits)} for band in self.by_level()
            ],
        }


@dataclass(frozen=True)
class LevelBand:
    """What the control explains at some levels.

    Attributes:
        low: the first of them.
        high: the last of them.
        bits: of an image.
    """

    low: int
    high: int
    bits: Estimate


def with_exchanged_controls(data: ImageData) -> ImageData:
    """The images, each with the control of the one before it."""
    assert data.controls is not None
    return replace(data, controls=data.controls.roll(1, 0))


def explained_by_control(
    model: Model,
    data: ImageData,
    *,
    levels: int = LEVELS,
    seed: int = 0,
) -> Explained:
    """Measure what the control of each image explains; five evaluations of it at most.

    Args:
        model: with a ControlNet.
        data: images with their controls.
        levels: of the chain, an image.
        seed: of levels and noise.

    Raises:
        NelboError: images without controls, or fewer than two, or a model without a ControlNet.
    """
    if data.controls is None or model.control_shape is None:
        raise NelboError("what a control explains is measured of a ControlNet, on images with one")
    if len(data) < 2:
        raise NelboError("what a control explains is measured on two images or more")
    plain = replace(data, labels=None, captions=None)
    sets = {NOTHING: replace(plain, controls=None), CONTROL: plain}
    other = "text" if model.reads_text and data.captions is not None else ""
    if model.num_classes and data.labels is not None:
        other = "class"
    if other:
        sets |= {other: replace(data, controls=None), f"{other} and control": data}
    sets[SHUFFLED] = with_exchanged_controls(data)
    estimator = levels_to_read(model, levels)
    bounds: dict[str, Any] = {}
    for name, some in sets.items():
        generator = generator_for(seed, len("explained"))
        found = evaluate(model, some, levels=estimator, generator=generator)
        bounds[name] = joined(found)
    return Explained(bounds, model.chain.num_levels)
