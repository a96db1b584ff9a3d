"""The course of training, as a section of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from nelbo.report import fragments, plots
from nelbo.report.theme import COLORS, to_inline_svg

VALIDATION = "validation_bits_per_dim"


def section(
    metrics: Sequence[Mapping[str, Any]],
    bound: str,
    *,
    reference: float | None = None,
    reference_label: str = "test bound",
    unit: str = "bits/dim",
) -> str:
    """The bound and the loss against the step; empty without metrics.

    Args:
        metrics: rows of the training loop: step, loss, bits_per_dim and, now and then,
            validation_bits_per_dim.
        bound: what the bound is that training saw.
        reference: a bound to compare with.
        reference_label: what to call it.
        unit: what to call bits per dimension.
    """
    if not metrics:
        return ""
    about = bound
    if len(metrics) >= plots.SMOOTHED_FROM:
        about += " The bold line is its running median."
    figure = plots.training_curve(
        metrics, "bits_per_dim", reference=reference, reference_label=reference_label, unit=unit
    )
    if _add_validation(figure, metrics):
        about += " The dots are the bound of a few held-out images."
    bits = fragments.captioned(
        to_inline_svg(
            figure, "training-bits", "Bits per dimension of the training batches against the step"
        ),
        about,
        "Bits per dimension",
    )
    loss = fragments.captioned(
        to_inline_svg(
            plots.training_curve(metrics, "loss"), "training-loss", "Loss against the step"
        ),
        "The objective that the optimiser lowered.",
        "Loss",
    )
    return fragments.section("Training", "", fragments.pair(bits, loss))


def _add_validation(figure: Figure, metrics: Sequence[Mapping[str, Any]]) -> bool:
    """Draw the readings of held-out images, if there are any."""
    read = [(row["step"], row[VALIDATION]) for row in metrics if row.get(VALIDATION) is not None]
    if read:
        steps, bits = zip(*read, strict=True)
        figure.axes[0].plot(steps, bits, "o", color=COLORS["ink"], markersize=4.5, zorder=5)
    return bool(read)
