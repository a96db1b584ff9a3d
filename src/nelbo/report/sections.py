"""The parts of a report in HTML, each empty where the run has nothing to show for it."""

from __future__ import annotations

import math
from html import escape
from itertools import zip_longest

import torch

from nelbo.chain.evidence import Summary
from nelbo.evidence.given import Given, given_of
from nelbo.report import curves, fragments, plots
from nelbo.report.beside import file_bars
from nelbo.report.formatting import number, setting
from nelbo.report.glossary import OF_AUTOENCODER, entry_list, glossary
from nelbo.report.run_report import RunReport
from nelbo.report.surprise import NONE_APART, end_images, map_colors, order_text, with_bits
from nelbo.report.tables import EVIDENCE, NO_LIKELIHOOD, bound_rows
from nelbo.report.theme import panel

_GAP = 2
_PROMPT_WIDTH = 132


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
    elif summary.kind == "none":
        meaning = NO_LIKELIHOOD
    else:
        raw = math.log2(report.pixel_levels)
        whole = raw, f"{number(raw, 2)}, the pixels as they are"
        at_most = "" if summary.kind == "exact" else "at most "
        meaning = (
            f"With this model an ideal coder stores one of the {report.headline} images in "
            f"{at_most}{number(bits.mean * summary.dims, 0)} bits on average; its "
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
        f"<span>{spread}{report.unit}{given.suffix}, {escape(report.headline or '')} "
        f"{EVIDENCE[summary.kind]}</span>"
        "</p>"
        f'<p class="meaning">{escape(meaning)}</p>'
        f"{fragments.cost_bar(costs, report.unit, whole)}"
    )


def _facts(report: RunReport) -> list[tuple[str, str]]:
    facts = report.model.facts()
    if "pixel levels" in facts:
        facts["pixel levels"] = report.pixel_levels
    facts |= report.facts
    return [(name.replace("_", " "), setting(name, value)) for name, value in facts.items()]


def pictures(report: RunReport) -> str:
    """Samples with their prompts, or beside real images."""
    if report.prompts and len(report.samples):
        return _prompted(report)
    panels = [
        fragments.image_panel(title, images, report.pixel_levels, alt, names)
        for title, images, alt, names in [
            ("Samples", report.samples, "image that the model drew", report.names),
            ("Real", report.real, "image of the data", report.real_names),
        ]
        if images is not None and len(images)
    ]
    if not panels:
        return ""
    asked = " Below each sample is the class that was asked for." if report.names else ""
    if report.real is None:
        return fragments.section("Samples", f"What the model draws.{asked}", *panels)
    about = "What the model draws, beside real images." if len(panels) == 2 else ""
    if about:
        about += asked
    return fragments.section("Samples and data", about, fragments.pair(*panels))


def _prompted(report: RunReport) -> str:
    drawn, about = report.samples, "What the model draws for captions of held-out images."
    if report.beside is not None:
        gap = torch.full_like(drawn[..., :_GAP], report.pixel_levels - 1)
        drawn = torch.cat([drawn, gap, report.beside], -1)
        about += " Left is what it drew, right the image that it has never seen."
    return fragments.section(
        "Prompts and pictures",
        about,
        fragments.captioned_images(drawn, report.pixel_levels, report.prompts, _PROMPT_WIDTH),
    )


def reconstructions(report: RunReport) -> str:
    """Held-out images beside what an autoencoder makes of them."""
    if report.pairs is None or not len(report.pairs):
        return ""
    return fragments.section(
        "Reconstructions",
        "Held-out images, each beside what the decoder makes of its mean latent: what the "
        "autoencoder loses, no prior brings back.",
        fragments.pairs_panel(report.pairs, report.pixel_levels),
    )


def bound_table(report: RunReport) -> str:
    """The evidence as a table."""
    if not report.summaries or report.headline is None:
        return ""
    summary = report.summaries[report.headline]
    about = (
        "Every term as a cost, which add up to the total: mean over images ± standard error. "
        "Monte Carlo is the part of the total's error that more levels would shrink."
    )
    if "latent_reconstruction" in summary.costs:
        about += " Those of the latents are densities and may be negative."
    splits = [
        f"{split}, {summary.examples:,} image{'s' if summary.examples != 1 else ''}"
        for split, summary in report.summaries.items()
    ]
    columns = ["", *["nats per image", report.unit] * len(splits)]
    rows = (
        fragments.Row(label, cells, "total" if name == "total" else "term", name or "total")
        for name, label, cells in bound_rows(report.summaries)
    )
    title = "The likelihood" if summary.kind == "exact" else "The bound, term by term"
    notes = (_floor(summary), _how_evaluated(report))
    return fragments.section(
        title,
        about,
        fragments.table(columns, rows, splits),
        *(f'<p class="note">{escape(note)}</p>' for note in notes if note),
    )


def _floor(summary: Summary) -> str:
    """Which part of the bound is the autoencoder's, in a sentence; "" without one."""
    floor, total = summary.floor_in_bits, summary.bits_per_dim
    if floor is None:
        return ""
    share = f"{100 * floor.mean / total.mean:.0f}%" if total.mean > 0 else "—"
    return (
        f"The autoencoder's floor is {number(floor.mean, 3)} bits/dim, {share} of the total: the "
        "reconstruction of pixels, which no prior can lower. The other terms, "
        f"{number(total.mean - floor.mean, 3)} bits/dim together, are what the latents cost."
    )


def beside_files(report: RunReport) -> str:
    """The bound beside image files of the same pictures."""
    if report.bound is None or report.headline is None or report.density:
        return ""
    bits = report.summaries[report.headline].bits_per_dim
    return file_bars(bits, report.files, f"{report.headline} pictures")


def _how_evaluated(report: RunReport) -> str:
    possible = 0 if report.model.chain is None else report.model.chain.num_levels - 1
    sentences = []
    for split, bound in report.bounds.items():
        evaluated, name = bound.levels.shape[1], split[:1].upper() + split[1:]
        if report.model.chain is None:
            sentences.append(f"{name}: {len(bound):,} images, each in one evaluation.")
        elif evaluated == possible:
            sentences.append(
                f"{name}: {len(bound):,} images, every level of the chain, one noise draw each."
            )
        else:
            draws = "1 draw" if evaluated == 1 else f"{evaluated:,} draws"
            sentences.append(
                f"{name}: {len(bound):,} images, {draws} of {possible:,} levels each, "
                "more of those where the bound varies, weighted so that the mean is unbiased."
            )
    return " ".join(sentences)


def extremes(report: RunReport) -> str:
    """What each image costs, and those that cost least and most."""
    data, bound = report.evaluated, report.bound
    if bound is None or len(bound) == 0:
        return ""
    histogram = panel(
        plots.bits_histogram(bound, unit=report.unit),
        "histogram",
        "Histogram of bits per dimension over images",
        "How the cost spreads over images.",
        f"All {len(bound):,} {report.headline} images",
    )
    if data is None:
        return fragments.section("Cost of each image", "", histogram)
    colors, scale = map_colors(report.maps)
    order = ""
    if report.closer == ():
        return fragments.section("Cost of each image", NONE_APART, histogram)
    if report.closer is not None:
        parts = colors.split([len(end.data) for end in report.closer]) if colors is not None else ()
        images = [end_images(*pair) for pair in zip_longest(report.closer, parts)]
        order = order_text(report.closer)
    else:
        least, most = report.extremes()
        parts = colors.split([len(least), len(most)]) if colors is not None else ()
        images = [with_bits(data, bound, *pair) for pair in zip_longest((least, most), parts)]
    groups = "".join(
        f"<figure><h3>{title}</h3>{shown}</figure>"
        for title, shown in zip(("Least surprising", "Most surprising"), images, strict=True)
    )
    return fragments.section(
        "Least and most surprising images",
        f"The {report.headline} images that cost the model least and most, in {report.unit}."
        + order
        + scale,
        fragments.pair(f'<div class="stack">{groups}</div>', histogram),
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
        loss=report.loss,
        held_out_alone=report.model.few_levels_matter,  # the others are next to all noise
    )


def words(report: RunReport) -> str:
    """What the words of the page mean."""
    summary = report.summaries.get(report.headline or "")
    if summary is None or "latent_reconstruction" not in summary.costs:
        chain = report.model.chain is not None
        return fragments.section("What the words mean", "", glossary(report.density, chain=chain))
    return fragments.section(
        "What the words mean",
        "The three terms of the autoencoder come first. Those of the prior are as for a diffusion "
        "model of pixels, with z in the place of x.",
        entry_list(OF_AUTOENCODER),
        f'<div style="margin-top: 28px">{glossary(report.density)}</div>',
    )
