"""A quantity of training against the step, as a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nelbo.report.axes import PLAIN, cost_axis, legend, new_plot, nothing, round_ticks
from nelbo.report.formatting import number
from nelbo.report.theme import COLORS

Row = Mapping[str, Any]
Array = NDArray[np.float64]

SMOOTHED_FROM = 50  # rows of training; fewer are drawn as they are


def training_curve(
    rows: Sequence[Row],
    quantity: str = "bits_per_dim",
    *,
    reference: float | None = None,
    reference_label: str = "test bound",
    unit: str = "bits/dim",
    validation: str | None = None,
) -> Figure:
    """One quantity of training against the step.

    Args:
        rows: what the training loop recorded, each a mapping of names to numbers.
        quantity: which of them to draw: "bits_per_dim", "loss", "learning_rate", "gradient_norm".
        reference: a value to mark by a dashed line.
        reference_label: what to call it.
        unit: what to call bits per dimension.
        validation: a quantity that only some rows have, to draw beside it as points.
    """
    figure, axes = new_plot()
    at, values = _points(rows, quantity)
    if len(at) == 0:
        return nothing(figure, axes, "no steps were recorded")
    color = COLORS["score-matching"]
    label = None if validation is None else "training"
    if len(values) < SMOOTHED_FROM:
        axes.plot(at, values, color=color, linewidth=1.6, marker="o", markersize=3.5, label=label)
    else:
        axes.plot(at, values, color=color, linewidth=0.7, alpha=0.35)
        axes.plot(at, _smoothed(values), color=color, linewidth=1.8, label=label)
    if validation is not None:
        read_at, readings = _points(rows, validation)
        color = COLORS["reconstruction"]
        axes.plot(
            read_at,
            readings,
            color=color,
            linewidth=1.2,
            marker="o",
            markersize=4,
            label="validation",
        )
        values = np.concatenate([values, readings])
        legend(axes, "best")
    if values.min() > 0 and values.max() > 10 * values.min():
        cost_axis(axes, values)
    else:
        axes.yaxis.set_major_locator(round_ticks(6))
        axes.yaxis.set_major_formatter(PLAIN)
    if reference is not None and math.isfinite(reference):
        axes.axhline(reference, color=COLORS["ink"], linewidth=1.1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{reference_label}\n{number(reference, 3)}",
            (1.0, reference),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=COLORS["ink"],
            fontsize=9.5,
        )
    axes.xaxis.set_major_locator(round_ticks(6))
    axes.xaxis.set_major_formatter(PLAIN)
    axes.set_xlabel("step")
    is_bits = quantity.endswith("bits_per_dim")
    axes.set_ylabel(unit if is_bits else quantity.replace("_", " "))
    return figure


def _points(rows: Sequence[Row], name: str) -> Array:
    """The steps at which a quantity is a number, and that, (2, n)."""
    numbers = [(row["step"], row[name]) for row in rows if _is_number(row, name)]
    return np.array(numbers, dtype=np.float64).reshape(-1, 2).T


def _smoothed(values: Array) -> Array:
    """Running median over a thirtieth of the curve, which outliers do not pull."""
    half = max(1, len(values) // 60)
    return np.array(
        [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )


def _is_number(row: Row, name: str) -> bool:
    value = row.get(name)
    return isinstance(value, int | float) and math.isfinite(value)
