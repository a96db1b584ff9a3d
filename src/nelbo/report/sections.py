"""The parts of a report in HTML, each empty where the run has nothing to show for it."""

from __future__ import annotations

import math
from html import escape
from itertools import zip_longest
from typing import Any

from torch import Tensor

from nelbo.evidence.given import Given, given_of
from nelbo.report import curves, fragments, plots
from nelbo.report.beside import file_bars
from nelbo.report.formatting import compact, number, setting
from nelbo.report.run_report import RunReport
from nelbo.report.strips import Strip
from nelbo.report.surprise import end_images, map_colors, order_text, with_bits
from nelbo.report.theme import to_inline_svg


def header(report: RunReport) -> str:
    """The title, the headline number and what it is made of, and the plain facts."""
    headline = _headline(report) if report.bound is not None and len(report.bound) else ""
    return fragments.header(report.title, report.subtitle, headline, _facts(report))


def _headline(report: RunReport) -> str:
    summary = report.summaries[report.headline or ""]
    bits = summary.bits_per_dim
    spread = f"± {number(bits.standard_error, 3)} " if math.isfinite(bits.standard_error) else ""
    costs = {name: cost for name, cost in summary.in_bits.items() if name != "total"}
    whole = None
    if report.density:
        meaning = (
            f"A bound on the log-density of the {report.headline} images: what the model pays for "
            "one value of an image, on average. Lower is better."
        )
    else:
        raw = math.log2(report.pixel_levels)
        whole = raw, f"{number(raw, 2)}, the pixels as they are"
        meaning = (
            f"With this model an ideal coder stores one of the {report.headline} images in at most "
            f"{number(bits.mean * summary.dims, 0)} bits on average; its "
            f"{summary.dims:,} values of {report.pixel_levels} levels take "
            f"{number(raw * summary.dims, 0)} as they are. Lower is better."
        )
    if report.evaluated is None:
        given = Given("class" if report.model.num_classes else "", 0, 0)
    else:
        given = given_of(report.model, report.evaluated)
    if given.what:
        meaning += f" The model is conditioned on {given.fact}, which is not counted."
    return (
        f'<p class="headline"><b>{number(bits.mean, 3)}</b>'
        f"<span>{spread}{report.unit}{given.suffix}, {escape(report.headline or '')} bound</span>"
        "</p>"
        f'<p class="meaning">{escape(meaning)}</p>'
        f"{fragments.cost_bar(costs, report.unit, whole)}"
    )


def _facts(report: RunReport) -> list[tuple[str, str]]:
    model = report.model
    facts: dict[str, Any] = {}
    if model.shape is not None:
        facts["image"] = " × ".join(str(side) for side in (*model.shape[1:], model.shape[0]))
    if not report.density:
        facts["pixel levels"] = report.pixel_levels
    facts["chain"] = f"{model.num_levels:,} levels"
    parameters = sum(p.numel() for p in model.parameters())
    if parameters:
        facts["parameters"] = f"{parameters:,}"
    facts |= {"prediction": _words(model.prediction), "variance": _words(model.variance)}
    facts |= report.facts
    return [(_words(name), setting(name, value)) for name, value in facts.items()]


def pictures(report: RunReport) -> str:
    """Samples beside real images."""
    panels = [
        fragments.image_panel(title, images, report.pixel_levels, alt, names)
        for title, images, alt, names in [
            ("Samples", report.samples, "image that the model drew", report.names),
            ("Real", report.real, "image of the data", report.real_names),
        ]
        if len(images)
    ]
    if not panels:
        return ""
    about = "What the model draws, beside real images." if len(panels) == 2 else ""
    if report.names and about:
        about += " Below each sample is the class that was asked for."
    return fragments.section("Samples and data", about, fragments.pair(*panels))


def bound_table(report: RunReport) -> str:
    """The bound as a table."""
    if not report.summaries:
        return ""
    return fragments.section(
        "The bound, term by term",
        "Every term as a cost, which add up to the total: mean over images ± standard error. "
        "Monte Carlo is the part of the total's error that more levels would shrink.",
        fragments.bound_rows(report.summaries, report.density),
        f'<p class="note">{escape(_how_evaluated(report))}</p>',
    )


def beside_files(report: RunReport) -> str:
    """The bound beside image files of the same pictures."""
    if report.bound is None or report.headline is None or report.density:
        return ""
    bits = report.summaries[report.headline].bits_per_dim
    return file_bars(bits, report.files, f"{report.headline} pictures")


def _how_evaluated(report: RunReport) -> str:
    possible = max(report.model.num_levels - 1, 0)
    sentences = []
    for split, bound in report.bounds.items():
        evaluated, name = bound.levels.shape[1], split[:1].upper() + split[1:]
        if evaluated == possible:
            sentences.append(
                f"{name}: {len(bound):,} images, every level of the chain, one noise draw each."
            )
        else:
            sentences.append(
                f"{name}: {len(bound):,} images, {evaluated:,} draws of {possible:,} levels each, "
                "weighted so that the mean is unbiased."
            )
    return " ".join(sentences)


def levels(report: RunReport) -> str:
    """What each level of the chain costs."""
    bounds = {split: bound for split, bound in report.bounds.items() if len(bound)}
    if not bounds or report.bound is None:
        return ""
    diamond = " The diamond is the reconstruction term, the whole cost of the last step."
    if not plots.shows_reconstruction(report.bound):
        diamond = " The reconstruction term is not positive, or too small to be drawn."
    by_level = fragments.captioned(
        to_inline_svg(
            plots.kl_by_level(bounds, unit=report.unit),
            "by-level",
            "Mean score matching term against the level, with the reconstruction term at level 1",
        ),
        "What one level costs on average." + diamond,
        "Cost of each level",
    )
    half = plots.half_spent_level(report.bound)
    caption = "What the chain has cost up to each level; the bound is where the curve ends."
    if half == 1:
        caption += " More than half of it is the reconstruction term."
    elif half is not None and half <= report.model.num_levels:
        scale = float(report.model.schedule.noise_scale[half])
        caption += (
            f" Half of it is spent by level {half:,}, where the noise scale is "
            f"{_two_digits(scale)}."
        )
    cumulative = fragments.captioned(
        to_inline_svg(
            plots.cumulative_bound(bounds, unit=report.unit),
            "cumulative",
            "Running sum of the bound from the data to the noise",
        ),
        caption,
        "Spent up to each level",
    )
    return fragments.section(
        "Where the bits go",
        "Low levels hold the fine grain of an image, high levels its shape. A level costs what the "
        "network cannot guess of the image from what the noise leaves of it.",
        fragments.pair(by_level, cumulative),
    )


def forward(report: RunReport) -> str:
    """The encoder as film."""
    strip = report.forward
    if strip is None:
        return ""
    rows = [("", row, False) for row in strip.images]
    return fragments.section(
        "The forward process",
        "The encoder: each row is one path of noise added to an image. The noise schedule is all "
        "that it is made of.",
        fragments.film(
            rows, _under(strip), "Images that dissolve into noise from left to right", _UNDER
        ),
        _strip_note(),
        fragments.captioned(
            to_inline_svg(
                plots.noise_schedule(report.model.schedule),
                "schedule",
                "Log signal-to-noise ratio against the level, beside other schedules",
            ),
            "How much of the image is left at each level: the logarithm of its power over that of "
            "the noise. Grey are usual schedules of as many levels.",
            "Noise schedule",
        ),
    )


def reverse(report: RunReport) -> str:
    """The decoder as film."""
    strip = report.reverse
    if strip is None:
        return ""
    state, guess = "<i>x</i><sub>t</sub>", "<i>x̂</i><sub>0</sub>"
    rows: list[tuple[str, Tensor, bool]] = []
    for i, row in enumerate(strip.images):
        if strip.predictions is None:
            rows.append(("", row, False))
        else:
            rows += [(state, row, i > 0), (guess, strip.predictions[i], False)]
    about = "The decoder: each sample starts as noise and is drawn step by step."
    if strip.predictions is not None:
        about += " Below each state is the image that the network then expects."
    return fragments.section(
        "The reverse process",
        about,
        fragments.film(
            rows, _under(strip), "Samples that emerge from noise from left to right", _UNDER
        ),
    )


_UNDER = ("level", "noise")


def _under(strip: Strip) -> list[tuple[str, str]]:
    return [
        (str(t), "0" if t == 0 else _two_digits(scale))
        for t, scale in zip(strip.levels, strip.noise_scales, strict=True)
    ]


def _strip_note() -> str:
    return (
        '<p class="note">Frames are evenly spaced in how much the picture changes, not in t. '
        "“Noise” is the weight of the noise in the picture, from 0 to 1.</p>"
    )


def extremes(report: RunReport) -> str:
    """What each image costs, and those that cost least and most."""
    data, bound = report.evaluated, report.bound
    if bound is None or len(bound) == 0:
        return ""
    histogram = fragments.captioned(
        to_inline_svg(
            plots.bits_histogram(bound, unit=report.unit),
            "histogram",
            "Histogram of bits per dimension over images",
        ),
        "How the cost spreads over images.",
        f"All {len(bound):,} {report.headline} images",
    )
    if data is None:
        return fragments.section("Cost of each image", "", histogram)
    colors, scale = map_colors(report.maps)
    groups, order = [], ""
    if report.closer is not None:
        parts = colors.split([len(end.data) for end in report.closer]) if colors is not None else ()
        images = [end_images(*pair) for pair in zip_longest(report.closer, parts)]
        order = order_text(report.closer)
    else:
        least, most = report.extremes()
        parts = colors.split([len(least), len(most)]) if colors is not None else ()
        images = [with_bits(data, bound, *pair) for pair in zip_longest((least, most), parts)]
    for title, panel in zip(("Least surprising", "Most surprising"), images, strict=True):
        groups.append(f"<figure><h3>{title}</h3>{panel}</figure>")
    return fragments.section(
        "Least and most surprising images",
        f"The {report.headline} images that cost the model least and most, in {report.unit}."
        + order
        + scale,
        fragments.pair(f'<div class="stack">{"".join(groups)}</div>', histogram),
    )


def training(report: RunReport) -> str:
    """The course of training."""
    reference = report.summaries[report.headline].bits_per_dim.mean if report.headline else None
    return curves.section(
        report.metrics,
        "The bound as training saw it: one random level an image, averaged over the last steps.",
        reference=reference,
        reference_label=f"{report.headline} bound",
        unit=report.unit,
    )


def settings(report: RunReport) -> str:
    """The settings, a group at a time."""
    return fragments.settings(report.settings)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _two_digits(value: float) -> str:
    """A value in two significant digits."""
    return compact(float(f"{value:.2g}"))
