"""Images with what each costs, and where in them the bits go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from nelbo.chain.bound import BoundMap
from nelbo.chain.evidence import Evidence
from nelbo.data.image_data import ImageData
from nelbo.evidence.extremes import Extremes
from nelbo.latent.bound import LatentBoundMap
from nelbo.report import fragments, map_plots
from nelbo.report.formatting import number

NONE_APART = (
    "No images are named as the least or the most surprising: the errors of the candidates, "
    "evaluated anew, are larger than the differences between them. nelbo rank with more --levels "
    "tells them apart."
)


def with_bits(
    data: ImageData,
    bound: Evidence,
    chosen: Int[Tensor, " n"],
    under: Tensor | None = None,
    places: Sequence[tuple[int, int]] | None = None,
    *,
    linked: bool = False,
    scores: Tensor | None = None,
) -> str:
    """Some of the images in a row that wraps, with bits/dim and caption or name, and a map between.

    Where the Monte Carlo error of an image's bits is known, it stands beside them.

    Args:
        data: all images.
        bound: their bounds.
        chosen: which of them to show.
        under: a picture to go below each.
        places: the first and the last place that each may have, to stand beside them, too.
        linked: link each to its file, where it has one.
        scores: what each was ranked by, to stand in place of bits/dim.
    """
    shown = data.take(chosen)
    values = bound.bits_per_dim if scores is None else scores
    bits = values.detach().cpu()[chosen].tolist()
    variance = bound.monte_carlo_variance.detach().cpu()[chosen]
    errors = (variance.sqrt() / bound.nats_per_bit_per_dim).tolist()
    captions = shown.captions or [None] * len(shown)
    names = [caption or name for caption, name in zip(captions, shown.names, strict=True)]
    if len(set(data.splits or ())) > 1 and shown.splits is not None:
        names = [f"{name} ({split})" for name, split in zip(names, shown.splits, strict=True)]
    labels = [(number(value, 2), name) for value, name in zip(bits, names, strict=True)]
    known = [f" ± {number(error, 2)}" if math.isfinite(error) else "" for error in errors]
    if places is not None:
        known = [f"{error}, {_place(*at)}" for error, at in zip(known, places, strict=True)]
    links = [_file_of(data, name) for name in shown.names] if linked else None
    return fragments.labelled_images(shown.images, shown.levels, labels, under, known, links)


def _file_of(data: ImageData, name: str) -> str | None:
    """The URI of the file that an image of a folder is in; None for one of another source."""
    file = Path(data.source) / name
    if not Path(data.source).is_dir() or not file.is_file():
        return None
    return file.resolve().as_uri()


def end_images(end: Extremes, under: Tensor | None = None) -> str:
    """The images at one end, from the outside in, each with the places that it may have."""
    everyone = torch.arange(len(end.data))
    return with_bits(end.data, end.bound, everyone, under, end.places)


def order_text(ends: Sequence[Extremes]) -> str:
    """A sentence on how far the order of the images at both ends is known."""
    levels = ends[0].bound.levels.shape[1]
    text = (
        f" Candidates were evaluated anew, with {levels:,} draws of levels each, so that chance "
        "does not count twice."
    )
    if all(end.in_order for end in ends):
        return text + " Their order is certain beyond the error of each pair, 95% of the time."
    return text + (
        " Places a–b are those that an image may have: between them the errors of the candidates "
        "overlap, and no order is known."
    )


def _place(first: int, last: int) -> str:
    return f"place {first}" if first == last else f"places {first}–{last}"


def map_colors(maps: BoundMap | LatentBoundMap | None) -> tuple[Tensor | None, str]:
    """The maps as pictures, with a sentence on how to read them; nothing without maps."""
    if maps is None:
        return None, ""
    colors, brightest = map_plots.heat(maps.by_pixel)
    return colors, (
        " Below each image is where its bits go, pixel by pixel, from dark for none to yellow "
        f"for {number(brightest, 1)} bits or more."
    )
