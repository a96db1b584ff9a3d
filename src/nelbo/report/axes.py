"""Axes of plots in the page's theme."""

from __future__ import annotations

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from nelbo.report.formatting import compact
from nelbo.report.theme import COLORS, new_figure

# What is smaller than this part of the largest value is no cost that one could see.
DYNAMIC_RANGE = 1e-5


def new_plot(width: float = 5.0, height: float = 3.3) -> tuple[Figure, Axes]:
    """An empty figure of that size in inches, and its one pair of axes."""
    figure = new_figure(width, height)
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
    return figure, axes


def _tick(value: float, _: int | None = None) -> str:
    """A tick in decimals where they are few, in powers of ten else."""
    value = float(f"{value:.10g}")
    if 1e-6 <= abs(value) < 1e-4:
        return f"{value:.7f}".rstrip("0").replace("-", "−")
    return compact(value)


PLAIN = FuncFormatter(_tick)


def cost_axis(axes: Axes, values: NDArray[np.float64]) -> None:
    """A logarithmic axis where the values span more than a decade, else one from zero."""
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive) == 0 or positive.max() < 10 * positive.min():
        axes.set_ylim(bottom=0.0)
        axes.yaxis.set_major_locator(round_ticks(6))
    else:
        axes.set_yscale("log", nonpositive="mask")
        low, high = axes.get_ylim()
        if low < high * DYNAMIC_RANGE:
            low = high * DYNAMIC_RANGE
            axes.set_ylim(low, high)
        subs = (1.0,) if high > 300 * low else (1.0, 2.0, 5.0)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PLAIN)


def round_ticks(count: int) -> MaxNLocator:
    """At most about `count` ticks at round numbers."""
    return MaxNLocator(count, steps=[1, 2, 2.5, 5, 10])


def legend(axes: Axes, loc: Literal["best", "upper left"]) -> None:
    """A legend in the page's theme, where anything has a label."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=loc, frameon=False, fontsize=9.5, labelcolor=COLORS["ink"])


def nothing(figure: Figure, axes: Axes, message: str) -> Figure:
    """The figure with a message in place of what there is not."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, message, ha="center", va="center", color=COLORS["muted"], fontsize=10)
    return figure
