"""The images that surprise a model most and least, as a page."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from jaxtyping import Int
from torch import Tensor

from nelbo.chain.bound import BoundMap
from nelbo.chain.evidence import Evidence
from nelbo.data import ImageData
from nelbo.evidence.file_sizes import FileSizes
from nelbo.evidence.given import Given
from nelbo.latent.bound import LatentBoundMap
from nelbo.report import fragments, plots
from nelbo.report.beside import file_bars
from nelbo.report.page import page
from nelbo.report.surprise import map_colors, with_bits
from nelbo.report.tables import estimate_text
from nelbo.report.theme import to_inline_svg


@dataclass(frozen=True)
class RankingReport:
    """The contents of a ranking page.

    Attributes:
        model_name: the model, for the title.
        data: all images.
        bound: their bounds, in the same order.
        most: indices of the most surprising images, in order.
        least: indices of the least surprising ones, in order.
        given: what the bits are conditioned on.
        maps: where the bits of `most` and then `least` go, if they are to be shown.
        files: what image files of them take.
        scores: the excess of each over image files, where they are ranked by that.
    """

    model_name: str
    data: ImageData
    bound: Evidence
    most: Int[Tensor, " most"]
    least: Int[Tensor, " least"]
    given: Given
    maps: BoundMap | LatentBoundMap | None = None
    files: FileSizes | None = None
    scores: Tensor | None = None


def ranking_page(report: RankingReport) -> str:
    """The ranking as HTML."""
    summary = report.bound.mean().bits_per_dim
    title = f"What surprises {report.model_name}"
    ranked_by = ""
    if report.scores is not None:
        ranked_by = "; ranked by the excess over the smaller of PNG and lossless WebP"
    header = (
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="subtitle">{len(report.data):,} images of {escape(report.data.source)}, '
        f"{estimate_text(summary, 3)} bits/dim{report.given.suffix} on average{ranked_by}</p>"
        "</header>"
    )
    colors, scale = map_colors(report.maps)
    half = len(report.most)
    most, least = (
        with_bits(report.data, report.bound, chosen, under, linked=True, scores=report.scores)
        for chosen, under in (
            (report.most, None if colors is None else colors[:half]),
            (report.least, None if colors is None else colors[half:]),
        )
    )
    ends = fragments.section(
        "Most and least surprising images",
        "What the model explains worst and best, in bits/dim ± their Monte Carlo error: odd, "
        "damaged or mislabelled images come first." + scale,
        fragments.pair(
            f"<figure><h3>Most surprising</h3>{most}</figure>",
            f"<figure><h3>Least surprising</h3>{least}</figure>",
        ),
    )
    histogram = to_inline_svg(
        plots.bits_histogram(report.bound), "histogram", "Histogram of bits per dimension"
    )
    parts = [header, ends, fragments.section("All images", "", histogram)]
    return page(title, [*parts, file_bars(summary, report.files, "pictures")])
