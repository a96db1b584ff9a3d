"""What a control shows and explains: pictures drawn by it, and bits of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from nelbo.evidence.explained import Explained
from nelbo.report import fragments
from nelbo.report.axes import PLAIN, legend, new_plot
from nelbo.report.explained import rows_of, warning
from nelbo.report.run_report import RunReport
from nelbo.report.theme import COLORS, panel

# In metrics.jsonl: what the control explains over none, and over another image's.
EXPLAINED, OWN = "explained_bits", "own_bits"
_GAP, _WIDTH = 2, 200
_ABOUT = (
    "The bound without the one less the bound with the other, on the same images, levels and "
    "noise: bits of an image, mean ± standard error over images."
)


def error_of(name: str) -> str:
    """Where metrics.jsonl has the standard error of a figure of bits."""
    return name.replace("bits", "error")


def shown_controls(controls: Tensor, levels: int, channels: int) -> Tensor:
    """Controls 0..255, (n, 3, H, W), as pixel levels of images of this number of channels."""
    grey = controls.float().mean(1, keepdim=True) if channels == 1 else controls.float()
    return (grey * ((levels - 1) / 255)).round().byte()


def section(report: RunReport) -> str:
    """What the control explains, against the step and by level; "" without a control."""
    explained = report.explained
    if explained is None:
        return ""
    panels = [
        panel(
            by_level(explained),
            "explained-levels",
            "Bits explained by level",
            "What the control alone explains at the levels of the chain, from the data to the "
            "noise; bars are a standard error.",
            "Where the control explains",
        )
    ]
    if any(EXPLAINED in row for row in report.metrics):
        course = panel(
            curve(report.metrics),
            "explained-curve",
            "Bits explained against the step",
            "Read now and then from the averaged weights, on the same validation images, levels "
            "and noise each time; the bands are a standard error. How much better an image's own "
            "control is than another's is free of what the ControlNet does whatever its control.",
            "While training",
        )
        panels.insert(0, course)
    rows = (fragments.Row(given, [without, *bits]) for without, given, *bits in rows_of(explained))
    note = f'<p class="note">{escape(warning(explained))}</p>' if warning(explained) else ""
    return fragments.section(
        "What the control explains",
        _ABOUT,
        fragments.table(("given", "over", "bits an image", "bits/dim"), rows),
        note,
        fragments.pair(*panels),
    )


def pictures(report: RunReport) -> str:
    """Controls of held-out images, what was drawn by them, and the images; "" without controls."""
    if report.controls is None or report.real is None:
        return ""
    levels, channels = report.pixel_levels, report.samples.shape[1]
    gap = torch.full_like(report.samples[..., :_GAP], levels - 1)
    drawn_by = shown_controls(report.controls, levels, channels)
    rows = torch.cat([drawn_by, gap, report.samples, gap, report.real], -1)
    captions = report.prompts or [""] * len(rows)
    return fragments.section(
        "Drawn by the control",
        "Left is the control of a held-out image, in the middle what the model draws by it, right "
        "the image that it has never seen.",
        fragments.captioned_images(rows, levels, captions, _WIDTH, "control, drawn, real"),
    )


def curve(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The bits explained against the step, over no control and over another image's."""
    figure, axes = new_plot()
    for name, label, color in (
        (EXPLAINED, "over no control", COLORS["score-matching"]),
        (OWN, "over another image's", COLORS["reconstruction"]),
    ):
        read = [row for row in rows if math.isfinite(row.get(name, math.nan))]
        if not read:
            continue
        steps, bits = [row["step"] for row in read], [row[name] for row in read]
        errors = [row.get(error_of(name), 0.0) for row in read]
        low = [b - e for b, e in zip(bits, errors, strict=True)]
        high = [b + e for b, e in zip(bits, errors, strict=True)]
        axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        axes.plot(steps, bits, color=color, linewidth=1.8, marker="o", markersize=3.5, label=label)
    legend(axes, loc="best")
    _label(axes, "step")
    return figure


def by_level(explained: Explained) -> Figure:
    """What the control alone explains in each band of levels."""
    bands = explained.by_level()
    figure, axes = new_plot()
    centres = [(band.low + band.high) / 2 for band in bands]
    widths = [0.85 * (band.high - band.low + 1) for band in bands]
    axes.bar(
        centres,
        [band.bits.mean for band in bands],
        widths,
        yerr=[band.bits.standard_error for band in bands],
        color=COLORS["score-matching"],
        ecolor=COLORS["ink"],
        capsize=2,
    )
    _label(axes, "level")
    return figure


def _label(axes: Any, along: str) -> None:
    """Bits an image over what is `along` the other axis, with a line at none."""
    axes.axhline(0.0, color=COLORS["ink"], linewidth=1.0)
    axes.set_xlabel(along)
    axes.set_ylabel("bits an image")
    axes.xaxis.set_major_formatter(PLAIN)
    axes.yaxis.set_major_formatter(PLAIN)
