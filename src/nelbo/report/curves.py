"""The course of training, as a section of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nelbo.report import fragments, training_plots
from nelbo.report.theme import panel
from nelbo.runs.checkpoints import VALIDATION


def section(
    metrics: Sequence[Mapping[str, Any]],
    bound: str,
    *,
    reference: float | None = None,
    reference_label: str = "test bound",
    unit: str = "bits/dim",
    loss: str = "The objective that the optimiser lowered.",
    held_out_alone: bool = False,
) -> str:
    """The bound and the loss against the step; empty without metrics.

    Args:
        metrics: rows of the training loop: step, loss, bits_per_dim and, now and then,
            validation_bits_per_dim.
        bound: what the bound is that training saw.
        reference: a bound to compare with.
        reference_label: what to call it.
        unit: what to call bits per dimension.
        loss: what the loss is.
        held_out_alone: leave out the bound of the training batches, where it is next to all noise.
    """
    if not metrics:
        return ""
    curve = training_plots.training_curve(metrics, "loss")
    loss_panel = panel(curve, "training-loss", "Loss against the step", loss, "Loss")
    is_validated = any(VALIDATION in row for row in metrics)
    if held_out_alone and not is_validated:
        return fragments.section("Training", "", loss_panel)
    about = bound
    if len(metrics) >= training_plots.SMOOTHED_FROM:
        about += " The bold line is its running median."
    if held_out_alone:
        about = "The bound of held-out images, read from the averaged weights, on the same levels "
        about += "and noise each time."
    elif is_validated:
        about += " The points are the bound of held-out images, read from the averaged weights."
    of = "held-out images" if held_out_alone else "training batches"
    figure = training_plots.training_curve(
        metrics,
        VALIDATION if held_out_alone else "bits_per_dim",
        reference=reference,
        reference_label=reference_label,
        unit=unit,
        validation=VALIDATION if is_validated and not held_out_alone else None,
    )
    alt = f"Bits per dimension of the {of} against the step"
    bits = panel(figure, "training-bits", alt, about, "Bits per dimension")
    return fragments.section("Training", "", fragments.pair(bits, loss_panel))
