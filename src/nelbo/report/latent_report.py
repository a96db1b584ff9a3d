"""The report of a latent diffusion model: its bound on pixels, and pictures with their prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.data.image_data import ImageData
from nelbo.evidence.extremes import Extremes
from nelbo.evidence.file_sizes import FileSizes
from nelbo.evidence.given import given_of
from nelbo.evidence.sample_reading import SampleReading
from nelbo.latent import LatentDiffusion
from nelbo.latent.bound import LatentBound, LatentBoundSummary
from nelbo.report import curves, fragments, plots
from nelbo.report.beside import file_bars, quality_section
from nelbo.report.formatting import number, setting
from nelbo.report.glossary import Entry, entry_list, glossary
from nelbo.report.page import page, write_html
from nelbo.report.surprise import end_images, order_text, with_bits
from nelbo.report.theme import to_inline_svg

_GAP = 2
_PROMPT_WIDTH = 132
# How many of the least, and of the most, surprising images are shown.
EXTREMES = 8
_TERMS = (
    Entry(
        "Reconstruction",
        "Of the pixels, by the decoder; a cost of its own that no prior can lower.",
        "E[log <i>p</i>(<i>x</i>|<i>z</i><sub>0</sub>)]",
    ),
    Entry(
        "Entropy of the encoder",
        "What is won back, since any latent that the encoder might draw does as well.",
        "H[<i>q</i>(<i>z</i><sub>0</sub>|<i>x</i>)]",
    ),
    Entry(
        "Reconstruction of latents",
        "A density of the same latents as the entropy: only the sum of the two has a meaning.",
        "E[log <i>p</i>(<i>z</i><sub>0</sub>|<i>z</i><sub>1</sub>)]",
    ),
)


@dataclass(frozen=True)
class LatentReport:
    """What the report tells; every part that is empty or None is left out.

    Attributes:
        title: of the page.
        subtitle: a line below it.
        model: the model that was evaluated.
        bound: of the held-out images, or None.
        evaluated: these images, in the order of the bound.
        samples: pictures that the model drew, pixel levels, (n, C, H, W).
        prompts: what each of them was to show; empty for a model without text.
        beside: a held-out image of each prompt, pixel levels, (n, C, H, W), or None.
        pairs: held-out images, each followed by its reconstruction by the autoencoder, pixel
            levels, (2m, C, H, W), or None.
        closer: the least and the most surprising images, evaluated anew; by default the bound
            decides, and no place is stated.
        facts: names and values to tell at the top.
        metrics: rows of the training loop.
        loss: what the loss of these rows is, a sentence with its unit.
        settings: nested mappings.
        files: what image files of the evaluated images take.
        reading: what the samples were found to be.

    Raises:
        NelboError: another number of prompts or images beside than samples, or of images than the
            bound has.
    """

    title: str
    subtitle: str
    model: LatentDiffusion
    bound: LatentBound | None
    evaluated: ImageData
    samples: UInt8[Tensor, "n channels height width"]
    prompts: Sequence[str] = ()
    beside: UInt8[Tensor, "n channels height width"] | None = None
    pairs: UInt8[Tensor, "pairs channels height width"] | None = None
    closer: tuple[Extremes, Extremes] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    loss: str = "The objective that the optimiser lowered."
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: FileSizes | None = None
    reading: SampleReading | None = None

    def __post_init__(self) -> None:
        counts = {
            "prompts": (len(self.prompts) or len(self.samples), len(self.samples)),
            "images beside": (
                len(self.samples) if self.beside is None else len(self.beside),
                len(self.samples),
            ),
            "evaluated images": (
                len(self.evaluated),
                len(self.evaluated) if self.bound is None else len(self.bound),
            ),
        }
        for what, (found, expected) in counts.items():
            if found != expected:
                raise NelboError(f"the report has {found} {what}, expected {expected}")


def write_latent_report(report: LatentReport, path: str | Path) -> None:
    """Write the report as one self-contained HTML file, whole or not at all."""
    write_html(render_latent(report), path)


def render_latent(report: LatentReport) -> str:
    """The report as HTML."""
    bits = None if report.bound is None else report.bound.mean().bits_per_dim.mean
    parts = [
        _header(report),
        _samples(report),
        quality_section(report.reading),
        _reconstructions(report),
        _bound(report),
        _beside_files(report),
        _levels(report),
        _extremes(report),
        curves.section(report.metrics, "", reference=bits, loss=report.loss, held_out_alone=True),
        fragments.settings(report.settings),
        _words(),
    ]
    return page(report.title, parts)


def _header(report: LatentReport) -> str:
    model, headline = report.model, ""
    if report.bound is not None:
        summary = report.bound.mean()
        total, raw = summary.bits_per_dim, math.log2(report.evaluated.levels)
        costs = {name: cost for name, cost in summary.in_bits.items() if name != "total"}
        given = given_of(model, report.evaluated)
        meaning = (
            "What the model pays for one value of a held-out image: a bound on its code length, "
            "comparable with that of a diffusion model of pixels. Lower is better."
        )
        if given.what:
            meaning += f" The model is conditioned on {given.fact}, which is not counted."
        spread = total.standard_error
        error = f"± {number(spread, 3)} " if math.isfinite(spread) else ""
        whole = raw, f"{number(raw, 2)}, the pixels as they are"
        headline = (
            f'<p class="headline"><b>{number(total.mean, 3)}</b>'
            f"<span>{error}bits/dim{given.suffix}, test bound</span></p>"
            f'<p class="meaning">{escape(meaning)}</p>'
            + fragments.cost_bar(costs, "bits/dim", whole)
        )
    facts: dict[str, Any] = {}
    if model.shape is not None and model.prior.shape is not None:
        facts["image"] = " × ".join(str(side) for side in (*model.shape[1:], model.shape[0]))
        latent = model.prior.shape
        facts["latents"] = " × ".join(str(side) for side in (*latent[1:], latent[0]))
    facts["chain of the prior"] = f"{model.prior.num_levels:,} levels"
    parts = {"prior": model.prior, "autoencoder": model.autoencoder, "text encoder": model.text}
    facts["parameters"] = ", ".join(
        f"{sum(p.numel() for p in part.parameters()) / 1e6:.2f}M {name}"
        for name, part in parts.items()
        if part is not None
    )
    if model.decoder_scale is not None:
        facts["scale of the decoder"] = number(model.decoder_scale, 3)
    facts |= report.facts
    items = [(name, setting(name, value)) for name, value in facts.items()]
    return fragments.header(report.title, report.subtitle, headline, items)


def _samples(report: LatentReport) -> str:
    if not len(report.samples):
        return ""
    levels = report.evaluated.levels
    if not report.prompts:
        grid = fragments.image_panel("", report.samples, levels, "image that the model drew")
        return fragments.section("Samples", "What the model draws.", grid)
    pictures, about = report.samples, "What the model draws for captions of held-out images."
    if report.beside is not None:
        gap = torch.full_like(pictures[..., :_GAP], levels - 1)
        pictures = torch.cat([pictures, gap, report.beside], -1)
        about += " Left is what it drew, right the image that it has never seen."
    cells = "".join(
        f"<figure>{fragments.image(pixels, levels, alt=prompt)}"
        f"<figcaption>{escape(prompt)}</figcaption></figure>"
        for pixels, prompt in zip(pictures, report.prompts, strict=True)
    )
    return fragments.section(
        "Prompts and pictures",
        about,
        '<div class="images spaced" style="grid-template-columns: '
        f'repeat(auto-fill, minmax({_PROMPT_WIDTH}px, 1fr))">{cells}</div>',
    )


def _reconstructions(report: LatentReport) -> str:
    if report.pairs is None or not len(report.pairs):
        return ""
    half = max(2, 2 * -(-len(report.pairs) // 4))
    panels = [
        fragments.image_panel("", some, report.evaluated.levels, f"{len(some) // 2} pairs")
        for some in report.pairs.split(half)
    ]
    return fragments.section(
        "Reconstructions",
        "Held-out images, each beside what the decoder makes of its mean latent: what the "
        "autoencoder loses, no prior brings back.",
        fragments.pair(*panels),
    )


def _floor(summary: LatentBoundSummary) -> str:
    """Which part of the bound is the autoencoder's, in a sentence."""
    floor, total = summary.floor_in_bits, summary.bits_per_dim
    share = f"{100 * floor.mean / total.mean:.0f}%" if total.mean > 0 else "—"
    return (
        f"The autoencoder's floor is {number(floor.mean, 3)} bits/dim, {share} of the total: the "
        "reconstruction of pixels, which no prior can lower. The other terms, "
        f"{number(total.mean - floor.mean, 3)} bits/dim together, are what the latents cost."
    )


def _bound(report: LatentReport) -> str:
    if report.bound is None:
        return ""
    evaluated, possible = report.bound.levels.shape[1], report.model.prior.num_levels - 1
    images = f"{len(report.bound):,} images."
    how = (
        f"{images} Every level of the prior's chain, one noise draw each."
        if evaluated == possible
        else f"{images} {evaluated:,} draws of the {possible:,} levels of the prior's chain an "
        "image, where a pilot found them to matter, weighted so that the mean is unbiased."
    )
    return fragments.section(
        "The bound on pixels, term by term",
        "Every term as a cost, which add up to the total: mean over images ± standard error. "
        "Those of the latents are densities and may be negative.",
        fragments.bound_rows({"test": report.bound.mean()}, density=False),
        f'<p class="note">{escape(_floor(report.bound.mean()))}</p>',
        f'<p class="note">{escape(how)}</p>',
    )


def _beside_files(report: LatentReport) -> str:
    if report.bound is None:
        return ""
    return file_bars(report.bound.mean().bits_per_dim, report.files, "held-out pictures")


def _levels(report: LatentReport) -> str:
    if report.bound is None or report.bound.levels.numel() == 0:
        return ""
    profile = fragments.captioned(
        to_inline_svg(
            plots.level_profile(report.bound),
            "by-level",
            "Mean score matching term of the prior against the level",
        ),
        "What one level of the prior costs on average, in bits per dimension of the image; the "
        "band is two standard errors.",
        "Cost of each level",
    )
    histogram = fragments.captioned(
        to_inline_svg(plots.bits_histogram(report.bound), "histogram", "Images by their bits/dim"),
        "How the cost spreads over the held-out images.",
        "Cost of each image",
    )
    return fragments.section(
        "Where the bits go",
        "Low levels of the prior hold the fine grain of the latents, high levels the layout.",
        fragments.pair(profile, histogram),
    )


def _extremes(report: LatentReport) -> str:
    if report.bound is None:
        return ""
    order = ""
    if report.closer is not None:
        panels = [end_images(end) for end in report.closer]
        order = order_text(report.closer)
    else:
        bits = report.bound.bits_per_dim.detach().cpu().nan_to_num(nan=math.inf)
        ranked = bits.argsort()
        count = min(EXTREMES, max(1, len(ranked) // 2))
        ends = ranked[:count], ranked.flip(0)[:count]
        panels = [with_bits(report.evaluated, report.bound, chosen) for chosen in ends]
    return fragments.section(
        "Least and most surprising images",
        "The held-out images that cost the model least and most, in bits/dim ± their Monte Carlo "
        "error." + order,
        fragments.pair(
            *(
                f"<figure><h3>{title}</h3>{panel}</figure>"
                for title, panel in zip(
                    ("Least surprising", "Most surprising"), panels, strict=True
                )
            )
        ),
    )


def _words() -> str:
    return fragments.section(
        "What the words mean",
        "The three terms of the autoencoder come first. Those of the prior are as for a diffusion "
        "model of pixels, with z in the place of x.",
        entry_list(_TERMS),
        f'<div style="margin-top: 28px">{glossary(False)}</div>',
    )
