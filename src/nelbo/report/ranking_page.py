"""The images that surprise a model most and least, as a page."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from jaxtyping import Int
from torch import Tensor

from nelbo.bound import Bound, BoundMap
from nelbo.data import ImageData
from nelbo.report import fragments, plots
from nelbo.report.formatting import number
from nelbo.report.page import page
from nelbo.report.theme import to_inline_svg


@dataclass(frozen=True)
class RankingReport:
    """What a ranking tells.

    Attributes:
        model_name: the model, for the title.
        data: all images.
        bound: their bounds, in the same order.
        most: indices of the most surprising images, in order.
        least: indices of the least surprising ones, in order.
        maps: where the bits of `most` and then `least` go, if they are to be shown.
    """

    model_name: str
    data: ImageData
    bound: Bound
    most: Int[Tensor, " most"]
    least: Int[Tensor, " least"]
    maps: BoundMap | None = None


def ranking_page(report: RankingReport) -> str:
    """The ranking as HTML."""
    summary = report.bound.mean().bits_per_dim
    title = f"What surprises {report.model_name}"
    header = (
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="subtitle">{len(report.data):,} images of {escape(report.data.source)}, '
        f"{number(summary.mean, 3)} bits/dim on average</p></header>"
    )
    colors, scale = None, ""
    if report.maps is not None:
        colors, brightest = plots.heat(report.maps.by_pixel)
        scale = (
            " Below each image is where its bits go, pixel by pixel, from dark for none to yellow "
            f"for {number(brightest, 1)} bits."
        )
    half = len(report.most)
    most = _images(report, report.most, None if colors is None else colors[:half])
    least = _images(report, report.least, None if colors is None else colors[half:])
    ends = fragments.section(
        "Most and least surprising images",
        "What the model explains worst and best, in bits/dim: odd, damaged or mislabelled images "
        "come first." + scale,
        fragments.pair(
            f"<figure><h3>Most surprising</h3>{most}</figure>",
            f"<figure><h3>Least surprising</h3>{least}</figure>",
        ),
    )
    histogram = to_inline_svg(
        plots.bits_histogram(report.bound), "histogram", "Histogram of bits per dimension"
    )
    return page(title, [header, ends, fragments.section("All images", "", histogram)])


def _images(report: RankingReport, chosen: Int[Tensor, " n"], under: Tensor | None) -> str:
    shown = report.data.take(chosen)
    bits = report.bound.bits_per_dim.detach().cpu()[chosen].tolist()
    labels = [(number(value, 2), name) for value, name in zip(bits, shown.names, strict=True)]
    return fragments.labelled_images(shown.images, shown.levels, labels, under)
