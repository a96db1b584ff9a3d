"""The report of an autoencoder: reconstructions, its bound as a plain VAE, and its latents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from nelbo.chain.estimate import Estimate
from nelbo.evidence.autoencoder import AutoencoderReading
from nelbo.evidence.file_sizes import FileSizes
from nelbo.networks import AutoencoderKL
from nelbo.report import curves, fragments
from nelbo.report.axes import legend, new_plot
from nelbo.report.beside import file_bars
from nelbo.report.formatting import number, setting, with_error
from nelbo.report.glossary import Entry, entry_list
from nelbo.report.page import page
from nelbo.report.theme import COLORS, panel

# The value of a latent that is drawn white; its negative is black.
_WHITE = 2.5
_LATENT_ROWS = 6

_ROWS = (
    ("psnr", "PSNR, mean over images", "dB", 2),
    ("psnr_of_mean", "PSNR of the mean squared error", "dB", 2),
    ("reconstruction", "reconstruction, −E log p(x|z)", "bits/dim", 3),
    ("divergence", "divergence, KL(q(z|x) ‖ N(0, I))", "bits/dim", 3),
    ("bits_per_dim", "total (−ELBO) as a plain VAE", "bits/dim", 3),
    ("divergence_nats", "divergence", "nats per image", 1),
)
_WORDS = (
    Entry(
        "PSNR",
        "Peak signal-to-noise ratio: how much larger the range of pixels is than the error of the "
        "reconstruction from the mean latent.",
        "10 log<sub>10</sub>(2² / mean (<i>x</i> − <i>x̂</i>)²) dB, <i>x</i> in [−1, 1]",
    ),
    Entry(
        "Bound as a plain VAE",
        "A bound on the log-probability of the pixels with N(0, I) as the prior of the latents. A "
        "diffusion model that learns the prior takes the place of the divergence.",
        "log <i>p</i>(<i>x</i>) ≥ E[log <i>p</i>(<i>x</i>|<i>z</i>)] − KL(<i>q</i>(<i>z</i>|"
        "<i>x</i>) ‖ N(0, I))",
    ),
    Entry(
        "Scale of the decoder",
        "The standard deviation σ of p(x|z) around the decoded image, the most likely one on "
        "training images.",
        "<i>p</i>(<i>x</i>|<i>z</i>) = N(decode(<i>z</i>), σ²), in bins of the pixel levels",
    ),
)


@dataclass(frozen=True)
class AutoencoderReport:
    """The contents of the report.

    Attributes:
        title: of the page.
        subtitle: a line below it.
        autoencoder: what was trained.
        pairs: images, each followed by its reconstruction, pixel levels, (2n, C, H, W).
        latents: the mean latents of the first of these images, (m, C', H', W').
        readings: of the splits "train" and "test"; the latter makes the headline.
        levels: how many levels a pixel has.
        facts: names and values at the top.
        metrics: rows of the training loop.
        settings: nested mappings.
        files: what image files of the held-out images take.
    """

    title: str
    subtitle: str
    autoencoder: AutoencoderKL
    pairs: UInt8[Tensor, "pairs channels height width"]
    latents: Float[Tensor, "rows latent_channels latent_height latent_width"]
    readings: Mapping[str, AutoencoderReading]
    levels: int
    facts: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    files: FileSizes | None


def render_autoencoder(report: AutoencoderReport) -> str:
    """The report as HTML."""
    test = report.readings["test"]
    bits = Estimate(test.bits_per_dim, math.nan)
    parts = [
        _header(report),
        fragments.section(
            "Reconstructions",
            "Held-out images, each beside what the decoder makes of its mean latent.",
            fragments.pairs_panel(report.pairs, report.levels),
        ),
        _readings(report),
        file_bars(bits, report.files, "held-out pictures", "as a plain VAE"),
        _latents(report),
        curves.section(
            report.metrics,
            "The bound as training saw it, as a plain VAE, averaged over the last steps.",
            reference=test.bits_per_dim,
        ),
        fragments.settings(report.settings),
        fragments.section("What the words mean", "", entry_list(_WORDS)),
    ]
    return page(report.title, parts)


def kl_by_channel(readings: Mapping[str, AutoencoderReading]) -> Figure:
    """What each channel of the latents has of the divergence, nats per image."""
    channels = len(next(iter(readings.values())).divergence_by_channel)
    figure, axes = new_plot(5.0, 0.9 + 0.32 * channels)
    axes.grid(visible=False)
    height = 0.8 / len(readings)
    for row, (split, reading) in enumerate(readings.items()):
        values = reading.divergence_by_channel
        places = [c + (row - (len(readings) - 1) / 2) * height for c in range(channels)]
        color = COLORS["score-matching" if split == "test" else "train"]
        axes.barh(places, values, height=0.9 * height, color=color, alpha=0.8, label=split)
    axes.set_yticks(range(channels), [str(c + 1) for c in range(channels)])
    axes.invert_yaxis()
    axes.set_xlabel("nats per image")
    axes.set_ylabel("channel")
    legend(axes, "best")
    return figure


def latent_pictures(
    latents: Float[Tensor, "rows channels latent_height latent_width"], height: int, width: int
) -> UInt8[Tensor, "rows channels 3 height width"]:
    """Each channel as a grey picture of this size: −2.5 is black, 2.5 white."""
    grey = ((latents / _WHITE).clamp(-1, 1) + 1) * 127.5
    large = torch.nn.functional.interpolate(grey, (height, width), mode="nearest")
    return large.round().byte()[:, :, None].expand(-1, -1, 3, -1, -1)


def share_of_values(latents: int, values: int) -> str:
    """How many latents there are beside the values of an image: 1/6 of the values."""
    if latents == values:
        return "as many as the values"
    few = latents < values
    shown = f"{max(latents, values) / min(latents, values):,.1f}".removesuffix(".0")
    return f"1/{shown} of the values" if few else f"{shown} times the values"


def nats(cost: float) -> str:
    """A cost with two digits: 0.36 nats, 1.5 nats, 120 nats."""
    return f"{number(cost, 0 if cost >= 10 else 1 if cost >= 1 else 2)} nats"


def reading_line(reading: AutoencoderReading) -> str:
    """The figures in one line, each ± its standard error over images."""
    return (
        f"PSNR {_figure(reading, 'psnr')} dB ({_figure(reading, 'psnr_of_mean')} dB of the mean "
        f"error); as a VAE {_figure(reading, 'bits_per_dim')} bits/dim = reconstruction "
        f"{_figure(reading, 'reconstruction')} + divergence {_figure(reading, 'divergence')} "
        f"({_figure(reading, 'divergence_nats')} nats)"
    )


def _figure(reading: AutoencoderReading, name: str) -> str:
    """A figure ± its standard error over images."""
    decimals = next(decimals for key, *_, decimals in _ROWS if key == name)
    return with_error(getattr(reading, name), reading.standard_errors.get(name), decimals)


def _header(report: AutoencoderReport) -> str:
    config = report.autoencoder.config
    channels, height, width = report.pairs.shape[1:]
    factor = config.downscale
    latent = (height // factor, width // factor, config.latent_channels)
    values = channels * height * width
    facts: dict[str, Any] = {
        "image": f"{height} × {width} × {channels}",
        "latents": f"{' × '.join(str(side) for side in latent)}, "
        f"{share_of_values(latent[0] * latent[1] * latent[2], values)}",
        "parameters": f"{sum(p.numel() for p in report.autoencoder.parameters()):,}",
        **report.facts,
    }
    test = report.readings["test"]
    psnr, sign, error = _figure(test, "psnr").partition(" ± ")
    headline = (
        f'<p class="headline"><b>{psnr}</b><span>{sign.lstrip()}{error} dB, PSNR of held-out images'
        "</span></p>"
        f'<p class="meaning">{_figure(test, "bits_per_dim")} bits/dim as a plain VAE, whose '
        "prior of the latents is N(0, I): what a diffusion model of them has to better.</p>"
    )
    items = [(name, setting(name, value)) for name, value in facts.items()]
    return fragments.header(report.title, report.subtitle, headline, items)


def _readings(report: AutoencoderReport) -> str:
    rows = (
        fragments.Row(
            f"{label}, {unit}",
            [_figure(reading, name) for reading in report.readings.values()],
            "total" if name == "bits_per_dim" else "term",
        )
        for name, label, unit, _ in _ROWS
    )
    return fragments.section(
        "How good it is",
        "Means over images of the training and of the held-out ones, ± standard error.",
        fragments.table(["", *report.readings], rows),
    )


def _latents(report: AutoencoderReport) -> str:
    latents = report.latents[:_LATENT_ROWS]
    count = latents.shape[1]
    channels, height, width = report.pairs.shape[1:]
    images = report.pairs[::2][: len(latents)].float() * (255 / (report.levels - 1))
    shown = images.round().byte().expand(-1, 3, -1, -1) if channels == 1 else images.round().byte()
    pictures = torch.cat([shown[:, None], latent_pictures(latents, height, width)], 1)
    rows = [("", row, False) for row in pictures]
    costs = report.readings["test"].divergence_by_channel
    under = [("image", "")] + [(f"{c + 1}", nats(float(costs[c]))) for c in range(count)]
    film = fragments.film(rows, under, "Images, and each channel of their latents beside them")
    bars = panel(
        kl_by_channel(report.readings),
        "by-channel",
        "Divergence of each channel of the latents",
        "KL(q(z|x) ‖ N(0, I)) by channel: its information about an image. A channel near zero is "
        "not used.",
        "Cost of each channel",
    )
    return fragments.section(
        "The latents",
        "The mean latent of a few images, a channel a picture: black is −2.5, white 2.5.",
        film,
        f'<div style="margin-top: 28px">{bars}</div>',
    )
