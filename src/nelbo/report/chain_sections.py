"""The parts of a report that show a chain: what its levels cost, and both its ways as film."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nelbo.report import fragments, plots
from nelbo.report.formatting import compact
from nelbo.report.run_report import RunReport
from nelbo.report.strips import Strip
from nelbo.report.theme import panel

_UNDER = ("level", "noise")


def levels(report: RunReport) -> str:
    """What each level of the chain costs; nothing without evaluated levels."""
    bounds: dict[str, Any] = {s: b for s, b in report.bounds.items() if len(b)}
    if not bounds or report.bound is None or report.bound.levels.numel() == 0:
        return ""
    if report.model.few_levels_matter:
        panels = [_profile_of_prior(report)]
        about = (
            "Low levels of the prior hold the fine grain of the latents, high levels the layout."
        )
    else:
        panels = [_by_level(report, bounds), _spent(report, bounds)]
        about = (
            "Low levels hold the fine grain of an image, high levels its shape. A level costs what "
            "the network cannot guess of the image from what the noise leaves of it."
        )
    return fragments.section("Where the bits go", about, fragments.pair(*panels))


def _profile_of_prior(report: RunReport) -> str:
    bound: Any = report.bound
    return panel(
        plots.level_profile(bound, unit=report.unit),
        "by-level",
        "Mean score matching term of the prior against the level",
        f"What one level of the prior costs on average, in {report.unit} of the image; the band is "
        "two standard errors.",
        "Cost of each level",
    )


def _by_level(report: RunReport, bounds: dict[str, Any]) -> str:
    diamond = " The diamond is the reconstruction term, the whole cost of the last step."
    if not plots.shows_reconstruction(bounds[report.headline or ""]):
        diamond = " The reconstruction term is not positive, or too small to be drawn."
    return panel(
        plots.kl_by_level(bounds, unit=report.unit),
        "by-level",
        "Mean score matching term against the level, with the reconstruction term at level 1",
        "What one level costs on average." + diamond,
        "Cost of each level",
    )


def _spent(report: RunReport, bounds: dict[str, Any]) -> str:
    chain = report.model.chain
    half = plots.half_spent_level(bounds[report.headline or ""])
    caption = "What the chain has cost up to each level; the bound is where the curve ends."
    if half == 1:
        caption += " More than half of it is the reconstruction term."
    elif half is not None and half <= chain.num_levels:
        scale = float(chain.schedule.noise_scale[half])
        caption += (
            f" Half of it is spent by level {half:,}, where the noise scale is "
            f"{_two_digits(scale)}."
        )
    return panel(
        plots.cumulative_bound(bounds, unit=report.unit),
        "cumulative",
        "Running sum of the bound from the data to the noise",
        caption,
        "Spent up to each level",
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
        '<p class="note">Frames are evenly spaced in how much the picture changes, not in t. '
        "“Noise” is the weight of the noise in the picture, from 0 to 1.</p>",
        panel(
            plots.noise_schedule(report.model.chain.schedule),
            "schedule",
            "Log signal-to-noise ratio against the level, beside other schedules",
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


def _under(strip: Strip) -> list[tuple[str, str]]:
    return [
        (str(t), "0" if t == 0 else _two_digits(scale))
        for t, scale in zip(strip.levels, strip.noise_scales, strict=True)
    ]


def _two_digits(value: float) -> str:
    """A value in two significant digits."""
    return compact(float(f"{value:.2g}"))
