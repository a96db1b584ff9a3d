"""Evaluate: what pictures cost in bits, refined live; the terms, the levels, and where it goes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.coding import compress
from nelbo.evidence.file_sizes import file_size, formats_here, picture, raw_size
from nelbo.evidence.one_image import Refined, refine
from nelbo.studio.desk import Event
from nelbo.studio.form import Form
from nelbo.studio.limits import Limits
from nelbo.studio.pictures import png
from nelbo.studio.shelf import Served, Shelf
from nelbo.studio.tasks.looking import Reading
from nelbo.studio.tasks.mapping import bit_map

# Groups of levels of the chart, wider where there is less to see.
_BINS = 18
ERRORS = 0.001, 10.0


@dataclass(frozen=True)
class Evaluate:
    """The pictures, and the error to reach."""

    reading: Reading
    error: float
    limits: Limits

    def run(self, shelf: Shelf) -> Iterator[Event]:
        """For each picture what is known of its bits, its map, and the sizes of its files."""
        served = shelf.model(self.reading.model)
        shelf.scaled(served)
        condition = self.reading.condition(served)
        pixels = torch.stack([served.pixels(image) for image in self.reading.images])
        for i, (image, one) in enumerate(zip(self.reading.images, pixels, strict=True)):
            url = png(one, served.levels)
            yield {"type": "image", "index": i, "name": image.name, "url": url}
        for i, one in enumerate(pixels):
            x_0 = served.to_network(one)[None]
            readings = refine(
                served.model,
                x_0,
                condition,
                self.error,
                seed=self.reading.seed + i,
                most=self.limits.calls,
            )
            for reading in readings:
                if reading.evidence.kind == "none":
                    raise NelboError(f"{served.name} gives pictures no probability, so no bits")
                text = f"{reading.calls:,} of about {reading.planned:,} evaluations of the network"
                if len(pixels) > 1:
                    text = f"Picture {i + 1} of {len(pixels)}: {text}"
                step, of = reading.calls, reading.planned
                yield {"type": "progress", "step": step, "of": of, "text": text}
                yield {"type": "estimate", "index": i, **estimate(reading, served.model.chain)}
            yield {"type": "sizes", "index": i, **_sizes(one, served, reading)}
            yield from bit_map(served, x_0, condition, i, self.reading.seed + i)
            yield {"type": "archive", "index": i, **_archive(served, one, condition)}


def estimate(reading: Refined, chain: Any) -> dict[str, Any]:
    """What is known of the bits of a picture, along a chain if the model has one."""
    evidence = reading.evidence
    terms = evidence.mean().in_bits
    return {
        "bits": reading.bits,
        "error": reading.error,
        "kind": evidence.kind,
        "dims": evidence.dims,
        "calls": reading.calls,
        "final": reading.final,
        "terms": [
            {"name": name, "bits": cost.mean, "error": cost.monte_carlo_error}
            for name, cost in terms.items()
            if name != "total"
        ],
        "levels": [] if chain is None else _by_level(evidence, chain.num_levels),
    }


def _by_level(evidence: Any, last: int) -> list[dict[str, float]]:
    r"""What groups of levels cost together, bits/dim, with the error of each.

    With draws y = w KL of which N make the sum, that of a group is Σ y, with the variance
    Σ y² − (Σ y)²/N: that of N times the mean of y where it is of the group, and 0 elsewhere.
    """
    levels, count = evidence.levels[0], evidence.levels.shape[1]
    if count == 0:
        return []
    costs = (evidence.weights * evidence.score_matching)[0].double() / evidence.nats_per_bit_per_dim
    edges = np.unique(np.geomspace(2, last + 1, _BINS + 1).round().astype(int))
    found = []
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        inside = costs[(levels >= low) & (levels < high)]
        total = float(inside.sum())
        variance = float(inside.square().sum()) - total**2 / count
        found.append(
            {"from": low, "to": high - 1, "bits": total, "error": math.sqrt(max(0.0, variance))}
        )
    return found


def _sizes(pixels: Tensor, served: Served, reading: Refined) -> dict[str, Any]:
    """Bytes of the picture as files, and what its bits would come to."""
    files = []
    if len(pixels) in (1, 3):
        shown = picture(pixels, served.levels)
        for kind in formats_here():
            size = file_size(shown, kind)
            files.append({"name": kind, "bytes": size.whole, "pixels": size.pixels})
    evidence = reading.evidence
    return {
        "raw": raw_size(evidence.dims, served.levels),
        "bound": math.ceil(reading.bits * evidence.dims / 8),
        "files": files,
    }


def _archive(served: Served, pixels: Tensor, condition: Condition | None) -> dict[str, Any]:
    """Bytes of the picture alone in an archive of `nelbo compress`, or why there is none."""
    try:
        archive = compress(served.model, pixels[None], condition=condition, verify=False)
        return {"bytes": len(archive)}
    except NelboError as error:  # without the extra, or of a model that cannot be coded with
        return {"bytes": None, "reason": str(error)}


def read(form: Form) -> Evaluate:
    """The task of a form."""
    error = form.number("error", 0.02, *ERRORS)
    return Evaluate(Reading.read(form, form.limits.pictures), error, form.limits)
