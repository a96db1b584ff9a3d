"""Families: the table of a `nelbo compare --budget`, with samples of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from nelbo.evidence.standings import SHOWN_SPACE, Standing
from nelbo.report.grids import image_grid
from nelbo.studio.desk import Event
from nelbo.studio.form import Form
from nelbo.studio.pictures import picture_url
from nelbo.studio.shelf import Shelf


@dataclass(frozen=True)
class Families:
    """The comparison, by its name."""

    name: str | None

    def run(self, shelf: Shelf) -> Iterator[Event]:
        """A row a family, the best bound first."""
        standings = shelf.comparison(self.name)
        fitted = [standing for standing in standings if standing.runs]
        # What gives no probability comes last.
        fitted.sort(key=lambda each: math.inf if math.isnan(each.bits.mean) else each.bits.mean)
        yield {
            "type": "families",
            "rows": [_row(standing) for standing in fitted],
            "failed": [each.title for each in standings if not each.runs],
        }


def _row(standing: Standing) -> dict[str, object]:
    run = standing.runs[0]
    bits, distance = standing.bits, standing.frechet(SHOWN_SPACE)
    samples = run.samples
    levels = int(samples.max()) + 1
    grid = image_grid(samples, max(2, levels), columns=len(samples), scale=1, gap=1)
    return {
        "title": standing.title,
        "group": standing.group,
        "kind": standing.kind,
        "bits": bits.mean,
        "error": bits.error,
        "over_seeds": bits.over_seeds,
        "distance": distance.mean,
        "distance_error": distance.error,
        "parameters": standing.mean(lambda each: each.parameters),
        "seconds": standing.mean(lambda each: each.sample_seconds),
        "samples": picture_url(grid),
        "count": len(samples),
    }


def read(form: Form) -> Families:
    """The task of a form."""
    return Families(form.text("comparison"))
