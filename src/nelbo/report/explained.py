"""The bits that a control explains, in words and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from nelbo.chain.estimate import Estimate
from nelbo.evidence.explained import NOTHING, Explained
from nelbo.report.formatting import number, with_error
from nelbo.report.tables import new_table


def bits_text(bits: Estimate) -> str:
    """Bits of an image with their standard error, neither rounded to zero."""
    return with_error(bits.mean, bits.standard_error, 1)


def rows_of(explained: Explained) -> Iterator[tuple[str, str, str, str]]:
    """What is left out of each difference and what is given, and its bits an image and bits/dim."""
    for without, given in explained.pairs:
        bits = explained.estimate(without, given)
        yield without, given, bits_text(bits), number(bits.mean / explained.dims, 4)


def explained_table(explained: Explained) -> Table:
    """What the control explains, as a table for the terminal."""
    images = len(next(iter(explained.bounds.values())))
    table = new_table(
        ("given", "over"),
        ("bits/image", "bits/dim"),
        title="bits explained",
        caption=f"paired on the same noise: mean ± standard error over {images:,} images",
    )
    for without, given, *cells in rows_of(explained):
        table.add_row(given, without, *cells)
    return table


def warning(explained: Explained) -> str:
    """That the network gains from a control that is not the image's, where it clearly does."""
    gained = explained.shuffled
    if not gained.mean > 3 * gained.standard_error:
        return ""
    return (
        f"With the control of another image the network still gains {bits_text(gained)} bits: so "
        "much of what is explained is not the control's, but of what the ControlNet has learned of "
        "these images and the base has not."
    )


def headline(explained: Explained) -> str:
    """What the control explains beside everything else, in a line."""
    bits, other = explained.headline, explained.shuffled
    beside = "" if explained.base == NOTHING else f" beside the {explained.base}"
    return (
        f"The control explains {bits_text(bits)} bits an image{beside}; that of another image "
        f"{bits_text(other)}."
    )
