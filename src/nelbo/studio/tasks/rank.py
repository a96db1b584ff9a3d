"""Rank: how rare a picture is among the test images of the model's data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.bound import Bound
from nelbo.chain.distributions import generator_for
from nelbo.chain.estimators import Importance
from nelbo.data import ImageData
from nelbo.evidence.evaluation import evaluate
from nelbo.evidence.image_rounds import LevelChoice
from nelbo.evidence.reading_levels import first_guess
from nelbo.studio.desk import Event
from nelbo.studio.form import Form
from nelbo.studio.shelf import Served, Shelf

_IMAGES, _BATCH = 200, 8
_FIRST, _LEVELS = 2, 10


@dataclass(frozen=True)
class Rank:
    """A picture's bits/dim under a model, conditioned or not."""

    model: str | None
    bits: float
    conditioned: bool

    def run(self, shelf: Shelf) -> Iterator[Event]:
        """The share of the test images that cost less; their bits are kept for the next picture."""
        served = shelf.model(self.model)
        shelf.scaled(served)
        key = ("test bits", self.conditioned)
        if key not in served.known:
            yield {"type": "progress", "step": 0, "of": 1, "text": "Reading the test images"}
            data = shelf.images(served, "test")
            if data is None:
                raise NelboError(
                    f"the images that {served.name} was trained on are not here, so there is "
                    "nothing to rank it among"
                )
            batches = []
            for done, total, bits in self._bits(served, data.subset(_IMAGES, 0)):
                batches.append(bits)
                text = f"{done} of {total} test images"
                yield {"type": "progress", "step": done, "of": total, "text": text}
            served.known[key] = torch.cat(batches)
        known = served.known[key]
        share = float((known < self.bits).double().mean())
        n = len(known)
        # Of (k + 1)/(n + 2), which is not zero where no image or every one costs less.
        smoothed = (share * n + 1) / (n + 2)
        yield {
            "type": "rank",
            "share": share,
            "error": math.sqrt(smoothed * (1 - smoothed) / n),
            "images": n,
            "bits": sorted(round(value, 4) for value in known.tolist()),
        }

    def _bits(self, served: Served, data: ImageData) -> Iterator[tuple[int, int, Tensor]]:
        if not self.conditioned:
            data = replace(data, labels=None, captions=None)
        choice = LevelChoice(first_guess(served.model.chain))
        for start in range(0, len(data), _BATCH):
            some = data.take(slice(start, start + _BATCH))
            estimator = Importance(_LEVELS, choice.proposal, reconstructions=_FIRST)
            noise = generator_for(0, 9, start)
            (batch,) = evaluate(
                served.model, some, levels=estimator, batch_size=_BATCH, generator=noise
            )
            if served.model.chain is not None:
                choice.learn(cast(Bound, batch))
            yield start + len(some), len(data), batch.bits_per_dim.double()


def read(form: Form) -> Rank:
    """The task of a form."""
    bits = form.number_if_any("bits", -1e6, 1e6)
    if bits is None:
        raise NelboError("bits is missing: evaluate the picture first")
    return Rank(form.text("model"), bits, form.settings.get("conditioned") is True)
