"""What stands beside a model's figures: image files of the same pictures, and real pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from rich.table import Table

from nelbo.chain.estimate import Estimate
from nelbo.evidence.file_sizes import TITLES, FileSizes
from nelbo.evidence.sample_quality import SpaceQuality
from nelbo.evidence.sample_reading import Pairs, SampleReading
from nelbo.report import fragments
from nelbo.report.formatting import NOTHING, number, with_error
from nelbo.report.tables import new_table

ABOUT_FEATURES = (
    "Principal components and random convolutions are fitted on the training pictures: their "
    "figures compare with others of the same pictures only, not with published ones. The Fréchet "
    "distance of few pictures is too large, for samples and real pictures alike; the extrapolated "
    "one is not. The kernel distance has no such bias, and is below zero now and then."
)


def file_bars(bits: Estimate, files: FileSizes | None, what: str, name: str = "this model") -> str:
    """A section: the model's bits/dim beside those of image files of the same pictures.

    Args:
        bits: of the model.
        files: of image files; nothing is shown without.
        what: which pictures these are, such as "test pictures".
        name: of the model.
    """
    if files is None:
        return ""
    sizes = {TITLES[kind]: size.mean for kind, size in files.shown.items()}
    sizes |= {f"{TITLES[kind]}, one file": size for kind, size in files.together.items()}
    rows = sorted([(name, bits.mean), *sizes.items()], key=lambda row: row[1])
    rows.append(("as they are", files.raw))
    widest = max(value for _, value in rows if math.isfinite(value))
    items = "".join(
        f"<div{' class=own' if title == name else ''}><dt>{escape(title)}</dt>"
        f'<dd><span><i style="width: {_share(value, widest):.2f}%"></i></span>'
        f"<b>{number(value, 3)}</b></dd>"
        "</div>"
        for title, value in rows
    )
    return fragments.section(
        "Beside image files",
        f"Bits/dim of the same {what}: {files.note}"
        + ("; or all of them in one file." if files.together else "."),
        f'<dl class="bars">{items}</dl>',
    )


def _share(value: float, widest: float) -> float:
    return 100 * min(max(value, 0.0), widest) / widest if math.isfinite(value) else 100.0


def quality_rows(space: SpaceQuality) -> Iterator[tuple[str, str, str]]:
    """Name, value of the samples and value of real pictures of each figure."""

    def both(name: str, text: str) -> tuple[str, str, str]:
        return text, _figure(getattr(space.samples, name)), _figure(getattr(space.real, name))

    def measured(name: str, text: str) -> tuple[str, str, str]:
        ours, real = (
            _measured(getattr(some, name), getattr(some, f"{name}_error"))
            for some in (space.samples, space.real)
        )
        return text, ours, real

    yield measured("frechet", "Fréchet distance")
    yield both("frechet_extrapolated", "extrapolated")
    yield measured("kernel", "kernel distance")
    for name in ("precision", "recall", "density", "coverage"):
        yield both(name, name)


def _figure(value: float) -> str:
    """Three significant digits for what has no scale of its own."""
    return number(value, _decimals(value)) if math.isfinite(value) else NOTHING


def _decimals(value: float) -> int:
    return 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3


def _measured(value: float, error: float) -> str:
    """A figure ± its error with the decimals of the figure, or more where it would be zero."""
    if not (math.isfinite(value) and math.isfinite(error)):
        return _figure(value)
    decimals = _decimals(value)
    if 0 < error < 0.5 * 10.0**-decimals:
        decimals = _decimals(error)
    return with_error(value, error, decimals)


def quality_table(reading: SampleReading) -> Table:
    """The quality of samples for the terminal."""
    some = reading.spaces[0]
    counts = f"{some.samples.images:,}\nsamples", f"{some.real.images:,} real\npictures"
    table = new_table([""], counts)
    for space in reading.spaces:
        table.add_section()
        table.add_row(space.space, style="bold")
        for name, ours, real in quality_rows(space):
            table.add_row(f"  {name}", ours, real)
    return table


def nearest_line(reading: SampleReading) -> str:
    """How near the samples are to training pictures, in a sentence."""
    nearest = reading.nearest
    median = number(float(nearest.distance.median()), 3)
    line = f"nearest training picture of a sample: median distance {median} of the range of pixels"
    if len(nearest.held_out) == 0:
        return line
    return (
        f"{line}, of a held-out picture {number(float(nearest.held_out.median()), 3)}; "
        f"{nearest.near_share:.0%} of the samples are nearer than 95% of held-out pictures are "
        "(5% where the model does not copy)"
    )


def quality_section(reading: SampleReading | None) -> str:
    """The quality of samples, and the pairs that are most alike."""
    if reading is None:
        return ""
    some = reading.spaces[0]
    rows = [
        fragments.Row(one[0][0], [value for _, *both in one for value in both])
        for one in zip(*map(quality_rows, reading.spaces), strict=True)
    ]
    columns = ["", *["samples", "real"] * len(reading.spaces)]
    return fragments.section(
        "How good the samples are",
        f"{some.samples.images:,} samples against {some.samples.reference:,} training pictures; "
        f"beside them {some.real.images:,} real pictures against the others.",
        fragments.table(columns, rows, [space.space for space in reading.spaces]),
        f'<p class="note">{escape(ABOUT_FEATURES)}</p>',
    ) + _nearest_section(reading)


def _nearest_section(reading: SampleReading) -> str:
    line = nearest_line(reading)
    return fragments.section(
        "Nearest training pictures",
        "The samples that are most like a training picture, with that picture on the right, as it "
        f"is or mirrored. {line[:1].upper()}{line[1:]}.",
        _cells(reading.pairs),
    )


def _cells(pairs: Pairs) -> str:
    cells = "".join(
        "<figure><div>"
        + fragments.image(sample, pairs.levels, alt=f"sample {i + 1}")
        + fragments.image(near, pairs.levels, alt=f"training picture {name}")
        + f"</div><figcaption><b>{number(distance, 3)}</b>{fragments.short_name(name)}"
        "</figcaption></figure>"
        for i, (sample, near, name, distance) in enumerate(
            zip(pairs.samples, pairs.nearest, pairs.names, pairs.distances, strict=True)
        )
    )
    return f'<div class="images spaced twins">{cells}</div>'
