"""Families of models side by side: a table for the terminal, rows for a file, and a page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.table import Table

from nelbo.chain.estimate import FEW_IMAGES
from nelbo.data import ImageData
from nelbo.evidence.standings import SHOWN_SPACE, SPACES, Figures, Spread, Standing
from nelbo.report import fragments
from nelbo.report.families_pictures import SHOWN, drawn, figure
from nelbo.report.formatting import NOTHING, compact, duration, number
from nelbo.report.page import page
from nelbo.report.tables import new_table

_QUALITY = ("precision", "recall", "density", "coverage")
_MARKS = {"bound": "≤ ", "exact": "", "none": ""}


@dataclass(frozen=True)
class FamiliesReport:
    """What a comparison of families reports.

    Attributes:
        standings: of each family, in the order of the taxonomy.
        test: the images that bits are of.
        trained_on: how many images were trained on.
        budget: seconds of training, each.
        seeds: the seeds.
    """

    standings: tuple[Standing, ...]
    test: ImageData
    trained_on: int
    budget: float
    seeds: tuple[int, ...]

    @property
    def subtitle(self) -> str:
        """What was compared, and how."""
        count = len(self.seeds)
        return (
            f"{self.test.source}: {duration(self.budget)} of training each, "
            f"{count} seed{'s' * (count > 1)}, {self.trained_on:,} images for training, "
            f"{len(self.test):,} for test"
        )

    @property
    def judged(self) -> Figures | None:
        """Some figures, of whichever family has any: what real images come to is the same."""
        return next((run for standing in self.standings for run in standing.runs), None)

    @property
    def caption(self) -> str:
        """What the columns of a table are."""
        if self.judged is None:
            return "no family has figures: the notes have the reasons."
        count = self.judged.quality[SHOWN_SPACE]["samples"]["images"]
        few = ""
        if len(self.test) < FEW_IMAGES:
            few = (
                f" {len(self.test)} test images are few: their ± can be relied on from {FEW_IMAGES}"
                " images on."
            )
        return (
            "bits/dim of the test images: ≤ a bound, else exact; ± over images, and over seeds "
            f"after the comma. Fréchet distance, precision and recall of {count:,} samples to the "
            f"training images in {SHOWN_SPACE}; ± of its sampling, and over seeds. Modes: clusters "
            f"of the training images that hold a sample which is like one of them.{few}"
        )


_COLUMNS = (
    *("family", "bits/dim", "±", "Fréchet", "±", "precision", "recall", "modes"),
    *("ms/sample", "parameters", "steps", "passes"),
)
# How many of them are of the likelihood and the samples.
_WORTH = 8


def families_tables(report: FamiliesReport) -> tuple[Table, Table]:
    """The comparison for a terminal, a family a row: what it is worth, and what it took."""
    rows, real = _rows(report)
    # Abbreviated, so that 80 columns hold it.
    columns = tuple(name.replace("precision", "prec.") for name in _COLUMNS[:_WORTH])
    worth = new_table(
        columns[:1], columns[1:], title=report.subtitle, caption=report.caption, tight=True
    )
    for row in [*rows, *real]:
        worth.add_row(*row[:_WORTH])
    took = new_table(_COLUMNS[:1], _COLUMNS[_WORTH:], tight=True)
    took.add_column("note", justify="left", overflow="fold")
    for row, standing in zip(rows, report.standings, strict=True):
        took.add_row(row[0], *row[_WORTH:], "; ".join(standing.notes(report.budget)))
    return worth, took


def families_json(report: FamiliesReport) -> dict[str, Any]:
    """The comparison for a program."""
    judged = report.judged
    real: dict[str, Any] = {}
    if judged is not None:
        real = {space: judged.quality[space]["real"] for space in SPACES}
        real["modes"] = {name: judged.modes[f"real_{name}"] for name in ("reached", "off")}
    return {
        "data": report.test.source,
        "test_images": len(report.test),
        "training_images": report.trained_on,
        "budget_seconds": report.budget,
        "seeds": list(report.seeds),
        "real": real,
        "families": [
            {**_plain(standing, report.budget), "runs": [_run_json(r) for r in standing.runs]}
            for standing in report.standings
        ],
    }


def csv_rows(report: FamiliesReport) -> Iterator[list[Any]]:
    """The comparison for a file, its header first; what is not known is empty."""
    rows = [_plain(standing, report.budget) for standing in report.standings]
    flat = [dict(_flat(row)) for row in rows]
    yield list(flat[0])
    for row in flat:
        yield ["" if v is None or v != v else v for v in row.values()]


def families_page(report: FamiliesReport) -> str:
    """The comparison as HTML."""
    header = (
        "<header><h1>Families of generative models</h1>"
        f'<p class="subtitle">{escape(report.subtitle)}</p></header>'
    )
    return page(
        "Families of generative models",
        [
            header,
            fragments.section("On one scale", "", *_html_tables(report), _html_notes(report)),
            fragments.section("The data", "", figure("Test images", "", _real(report))),
            *_groups(report),
        ],
    )


def _html_tables(report: FamiliesReport) -> Iterator[str]:
    """What each family is worth, then what it took: one beside the other would be too wide."""
    rows, real = _rows(report)
    worth = (fragments.Row(row[0], row[1:_WORTH]) for row in [*rows, *real])
    yield fragments.table(_COLUMNS[:_WORTH], worth)
    yield f'<p class="note">{escape(report.caption)}</p>'
    yield _heading("What it took")
    took = (fragments.Row(row[0], row[_WORTH:]) for row in rows)
    yield fragments.table(_COLUMNS[:1] + _COLUMNS[_WORTH:], took)


def _html_notes(report: FamiliesReport) -> str:
    noted = [(standing.title, standing.notes(report.budget)) for standing in report.standings]
    items = [(title, "; ".join(notes)) for title, notes in noted if notes]
    if not items:
        return ""
    rows = "".join(f"<dt>{escape(title)}</dt><dd>{escape(notes)}</dd>" for title, notes in items)
    chosen = any(run.choice for standing in report.standings for run in standing.runs)
    first = "Sizes are those that suit the images for validation best."
    sizes = f'<p class="note" style="margin-bottom: 12px">{first}</p>' if chosen else ""
    return f'{_heading("Notes")}{sizes}<dl class="glossary">{rows}</dl>'


def _heading(title: str) -> str:
    return f'<h3 style="margin-top: 30px">{title}</h3>'


def _groups(report: FamiliesReport) -> Iterator[str]:
    """The samples of each family, a section for each part of the taxonomy."""
    for group in dict.fromkeys(standing.group for standing in report.standings):
        of_group = [standing for standing in report.standings if standing.group == group]
        yield fragments.section(
            group[0].upper() + group[1:], "", *(_row(report, standing) for standing in of_group)
        )


def _row(report: FamiliesReport, standing: Standing) -> str:
    """Samples of a family, with its figures above; its reason where it has none."""
    if not standing.runs:
        reason = escape("; ".join(standing.notes(report.budget)))
        return figure(standing.title, "", f'<p class="note">{reason}</p>')
    bits = standing.bits.mean
    figures = "no likelihood" if math.isnan(bits) else f"{_bits(standing)} bits/dim"
    figures += f", Fréchet {number(standing.frechet(SHOWN_SPACE).mean, 2)}"
    samples = standing.runs[0].samples
    return figure(standing.title, figures, drawn(samples, report.test.levels, standing.title))


def _real(report: FamiliesReport) -> str:
    """As many test images as a family has samples."""
    count = len(report.judged.samples) if report.judged else SHOWN
    return drawn(report.test.images[:count], report.test.levels, "Test images")


def _bits(standing: Standing) -> str:
    mean = standing.bits.mean
    return NOTHING if math.isnan(mean) else _MARKS[standing.kind] + number(mean, 3)


def _errors(spread: Spread, decimals: int) -> str:
    """Both errors, as far as they are known."""
    known = [e for e in (spread.error, spread.over_seeds) if not math.isnan(e)]
    return ", ".join(number(error, decimals) for error in known)


def _cells(standing: Standing) -> list[str]:
    """A family as a row."""
    if not standing.runs:
        return [standing.title, *[NOTHING] * (len(_COLUMNS) - 1)]
    frechet = standing.frechet(SHOWN_SPACE)
    return [
        standing.title,
        _bits(standing) if standing.kind != "none" else "none",
        _errors(standing.bits, 3),
        number(frechet.mean, 2),
        _errors(frechet, 2),
        number(standing.quality(SHOWN_SPACE, "precision"), 2),
        number(standing.quality(SHOWN_SPACE, "recall"), 2),
        _modes(standing.modes("reached"), standing.modes("count")),
        compact(float(f"{1000 * standing.mean(lambda run: run.sample_seconds):.2g}")),
        f"{standing.mean(lambda run: run.parameters):,.0f}",
        f"{standing.mean(lambda run: run.steps):,.0f}",
        compact(float(f"{standing.mean(lambda run: run.passes):.2g}")),
    ]


def _modes(reached: float, count: float) -> str:
    return f"{compact(float(f'{reached:.3g}'))}/{count:.0f}"


def _rows(report: FamiliesReport) -> tuple[list[list[str]], list[list[str]]]:
    """The families, a row each, and a row of real images where any family has figures."""
    rows = [_cells(standing) for standing in report.standings]
    if report.judged is None:
        return rows, []
    real = report.judged.quality[SHOWN_SPACE]["real"]
    known = {name: math.nan if value is None else value for name, value in real.items()}
    row = ["real images", "", "", number(known["frechet"], 2), number(known["frechet_error"], 2)]
    row += [number(known[name], 2) for name in ("precision", "recall")]
    modes = report.judged.modes
    row.append(_modes(modes["real_reached"], modes["count"]))
    return rows, [row + [""] * (len(_COLUMNS) - len(row))]


def _plain(standing: Standing, budget: float) -> dict[str, Any]:
    """A family's figures by name; of one that failed only its notes are known."""
    bits = standing.bits
    quality = {
        space: {
            "frechet": standing.frechet(space).mean,
            "frechet_error": standing.frechet(space).error,
            "frechet_error_over_seeds": standing.frechet(space).over_seeds,
            **{figure: standing.quality(space, figure) for figure in _QUALITY},
        }
        for space in SPACES
    }
    return {
        "family": standing.name,
        "group": standing.group,
        "seeds": len(standing.runs),
        "evidence": standing.kind,
        "bits_per_dim": bits.mean,
        "error_over_images": bits.error,
        "error_over_seeds": bits.over_seeds,
        "monte_carlo_error": standing.monte_carlo_error,
        **quality,
        "modes": {name: standing.modes(name) for name in ("count", "reached", "off")},
        "seconds_per_sample": standing.mean(lambda run: run.sample_seconds),
        "parameters": standing.mean(lambda run: run.parameters),
        "steps": standing.mean(lambda run: run.steps),
        "passes": standing.mean(lambda run: run.passes),
        "fit_seconds": standing.mean(lambda run: run.seconds),
        "notes": "; ".join(standing.notes(budget)),
    }


def _flat(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name} {inner}", each) for inner, each in value.items())
        else:
            yield name, value


def _run_json(run: Figures) -> dict[str, Any]:
    return {name: v for name, v in run.to_json().items() if name not in ("shape", "pixels")}
