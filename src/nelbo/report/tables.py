"""The bound as a table for the terminal and as plain data for programs.

Every term is a cost: the reconstruction term enters as −E[log p(x_0|x_1)], so that the three add
up to the total, the negative ELBO.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from nelbo.base.files import finite
from nelbo.chain.estimate import CONFIDENCE, Estimate
from nelbo.chain.evidence import Summary
from nelbo.report.formatting import NOTHING, number, with_error

# Terms that are called otherwise than by their names.
_LABELS = {
    "entropy": "−entropy of the encoder",
    "latent_reconstruction": "reconstruction of latents",
}
# What −log p(x), or what stands for it, is called by its kind.
EVIDENCE = {"bound": "bound", "exact": "likelihood", "none": "images"}
_TOTALS = {"bound": "total (−ELBO)", "exact": "total (−log p)", "none": "no likelihood"}
NO_LIKELIHOOD = "This model gives images no probability: judge it by its samples."
MONTE_CARLO = "Monte Carlo"
BITS_DECIMALS = 3


def label(name: str, kind: str = "bound") -> str:
    """What a cost is called: a term, or the total of evidence of a kind."""
    return _TOTALS[kind] if name == "total" else _LABELS.get(name, name.replace("_", " "))


def bits_unit(density: bool) -> str:
    """What bits per dimension are called; those of a density do not compare with the others."""
    return "bits/dim (density)" if density else "bits/dim"


def nats_decimals(summary: Summary) -> int:
    """How many decimals nats get: fewer for larger images, whose terms are larger."""
    highest = max(abs(cost.mean) for cost in summary.costs.values())
    return 2 if highest < 1e3 else 1 if highest < 1e4 else 0


def new_table(
    left: Sequence[str],
    right: Sequence[str | Text] = (),
    *,
    title: str | None = None,
    caption: str | None = None,
    wraps: bool = False,
    tight: bool = False,
) -> Table:
    """An empty table for the terminal: columns of words on the left, of numbers on the right.

    Args:
        left: their headings.
        right: their headings.
        title: what to write above.
        caption: what to write below.
        wraps: whether words may take several lines.
        tight: whether many columns of numbers are to fit, each in one line.
    """
    table = Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=tight,
    )
    for name in left:
        table.add_column(name, no_wrap=not wraps)
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=tight)
    return table


def estimate_text(estimate: Estimate, decimals: int) -> str:
    """Mean ± standard error; the mean alone where it has none, or where both are near zero.

    Near zero they are written as powers of ten, which two columns have no room for.
    """
    text = with_error(estimate.mean, estimate.standard_error, decimals)
    mean, _, error = text.partition(" ± ")
    return mean if "×" in mean and "×" in error else text


def bound_table(bounds: Mapping[str, Summary], *, density: bool = False) -> Table:
    """The terms of the bound, one a row, with standard errors; two columns for each split.

    Args:
        bounds: summaries by the name of their split.
        density: the data are continuous, so that the bound is one on a density.
    """
    # Two splits fit in 80 columns.
    units = ("nats/image", bits_unit(density))
    table = new_table(
        ["term"],
        [Text(f"{split}\n{unit}") for split in bounds for unit in units],
        caption="terms as costs: mean ± standard error over images;\n"
        f"{MONTE_CARLO}: the part of ± that more levels shrink",
    )
    for name, title, cells in bound_rows(bounds):
        is_total = name == "total"
        if is_total:
            table.add_section()
        table.add_row(title, *cells, style="bold" if is_total else None)
    return table


def bound_rows(bounds: Mapping[str, Summary]) -> Iterator[tuple[str, str, list[str]]]:
    """Name and label of each term, and its nats and bits/dim on each split; the total and what of
    its error is Monte Carlo, which has no name, come last."""
    columns = [
        (values, decimals)
        for summary in bounds.values()
        for values, decimals in (
            (summary.costs, nats_decimals(summary)),
            (summary.in_bits, BITS_DECIMALS),
        )
    ]
    kind = next((summary.kind for summary in bounds.values()), "bound")
    for name in columns[0][0] if columns else ():
        cells = [estimate_text(values[name], decimals) for values, decimals in columns]
        yield name, label(name, kind), cells
    yield "", MONTE_CARLO, [monte_carlo_text(v["total"], decimals) for v, decimals in columns]


def monte_carlo_text(estimate: Estimate, decimals: int) -> str:
    """The Monte Carlo part of an error, so that nobody adds it; a dash where it is not known."""
    error = estimate.monte_carlo_error
    if not math.isfinite(error):
        return NOTHING
    if math.isnan(estimate.standard_error):
        return number(error, decimals)
    # Chance may make the part larger than the whole, which few images have made too small.
    part = "above ±" if error > estimate.standard_error else "of ±"
    return f"{number(error, decimals)} {part}"


def result_line(summary: Summary, unit: str) -> str:
    """The bound with its one error, the parts of that, and its interval.

    1.736 ± 0.014 bits/dim, of which images 0.013 and Monte Carlo 0.004; 95% interval 1.708 to 1.764
    """
    if summary.kind == "none":
        return NO_LIKELIHOOD
    estimate, decimals = summary.bits_per_dim, BITS_DECIMALS
    monte_carlo = estimate.monte_carlo_error
    if not math.isfinite(estimate.standard_error):
        known = f" ± {number(monte_carlo, decimals)}" if math.isfinite(monte_carlo) else ""
        return f"{number(estimate.mean, decimals)}{known} {unit}{' (Monte Carlo)' if known else ''}"
    # Both are estimates, so that chance may make the part larger than the whole.
    monte_carlo = min(monte_carlo, estimate.standard_error)
    parts = {"images": estimate.image_error, "Monte Carlo": monte_carlo}
    known = " and ".join(
        f"{name} {number(error, decimals)}" for name, error in parts.items() if math.isfinite(error)
    )
    low, high = (number(end, decimals) for end in estimate.interval())
    return (
        f"{with_error(estimate.mean, estimate.standard_error, decimals)} {unit}"
        f"{', of which ' + known if known else ''}; {CONFIDENCE:.0%} interval {low} to {high}"
    )


def likelihood_table(
    rows: Mapping[str, tuple[Estimate, float | None]], unit: str = "bits/dim"
) -> Table:
    """Bits per dimension by the flow and by the bound, with network evaluations an image."""
    caption = "mean over images ± standard error"
    table = new_table([""], [unit, "evaluations\nan image"], caption=caption)
    for name, (estimate, evaluations) in rows.items():
        calls = "" if evaluations is None else number(evaluations, 0)
        table.add_row(name, estimate_text(estimate, BITS_DECIMALS), calls)
    return table


def bound_json(
    summary: Summary, *, density: bool = False, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """The same as plain data: `nats` and `bits_per_dim`, each term as `estimate_json`.

    `warnings` are reasons to distrust the error of the total; they name images of `names`.
    """
    return {
        "examples": summary.examples,
        "dims": summary.dims,
        "density": density,
        "kind": summary.kind,
        "nats": {name: estimate_json(value) for name, value in summary.costs.items()},
        "bits_per_dim": {name: estimate_json(value) for name, value in summary.in_bits.items()},
        "warnings": summary.nelbo.warnings(names),
    }


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    """A mean, its standard error with the two parts of that, and its interval, as plain data.

    Values that JSON has no number for (nan, infinity) are None.
    """
    parts = ("mean", "standard_error", "image_error", "monte_carlo_error")
    found = {name: float(getattr(estimate, name)) for name in parts}
    return finite({**found, "interval": list(estimate.interval())})
