"""Axes of plots in the page's theme."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nelbo.report.formatting import compact
from nelbo.report.theme import COLORS


def new_axes(figure: Figure) -> Axes:
    """The one pair of axes of a figure."""
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(COLORS["rule"])
    axes.grid(axis="y", color=COLORS["rule"], linewidth=0.7, alpha=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=COLORS["muted"], labelsize=9.5, length=0, pad=5)
    axes.tick_params(axis="x", which="major", length=3, color=COLORS["rule"])
    axes.xaxis.label.set(color=COLORS["muted"], fontsize=10)
    axes.yaxis.label.set(color=COLORS["muted"], fontsize=10)
    return axes


def _tick(value: float, _: int | None = None) -> str:
    """A tick in decimals where they are few, in powers of ten else."""
    value = float(f"{value:.10g}")
    if 1e-6 <= abs(value) < 1e-4:
        return f"{value:.7f}".rstrip("0").replace("-", "−")
    return compact(value)


PLAIN = FuncFormatter(_tick)
