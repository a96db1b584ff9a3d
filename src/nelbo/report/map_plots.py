"""Plots of where in an image the bound is spent: by pixel and by channel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.figure import Figure

from nelbo.base.errors import NelboError
from nelbo.chain.bound import BoundMap
from nelbo.report.axes import PLAIN, new_axes
from nelbo.report.formatting import number
from nelbo.report.theme import COLORS, new_figure

# Of the pixels, on the scale of maps; the others have its brightest colour.
_SHOWN_SHARE = 0.99
_CHANNELS = {1: ["grey"], 3: ["red", "green", "blue"]}


def cost_by_channel(
    found: BoundMap, names: Sequence[str] | None = None, *, unit: str = "bits/dim"
) -> Figure:
    """What each channel costs on average over examples, in bits per dimension of the image.

    Args:
        found: the maps of a batch.
        names: of the channels; red, green and blue where there are three.
        unit: what to call bits per dimension.

    Raises:
        NelboError: another number of names than channels.
    """
    costs = (
        found.by_channel.detach().cpu().double().mean(0).numpy() / found.bound.nats_per_bit_per_dim
    )
    if names is None:
        names = _CHANNELS.get(len(costs)) or [str(c) for c in range(len(costs))]
    if len(names) != len(costs):
        raise NelboError(f"{len(names)} names were given for {len(costs)} channels")
    figure = new_figure(5.0, 0.7 + 0.45 * len(costs))
    axes = new_axes(figure)
    axes.grid(visible=False)
    axes.barh(list(names), costs, color=COLORS["score-matching"], alpha=0.75, height=0.6)
    for row, cost in enumerate(costs):
        axes.annotate(
            number(float(cost), 3),
            (max(float(cost), 0.0), row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=COLORS["ink"],
            fontsize=9.5,
        )
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter(PLAIN)
    axes.set_xlabel(unit)
    return figure


def heat(
    maps: Float[torch.Tensor, "n height width"],
) -> tuple[UInt8[torch.Tensor, "n 3 height width"], float]:
    """Maps of nats as colours on one scale, and how many bits its brightest colour stands for.

    The scale ends where 99% of the pixels lie, as one pixel that costs very much would leave all
    others dark.
    """
    bits = maps.detach().cpu().double().nan_to_num(posinf=0.0) / math.log(2.0)
    highest = max(_high(bits.numpy()), 1e-12)
    colors = colormaps["viridis"]((bits / highest).clamp(0, 1).numpy(), bytes=True)
    return torch.from_numpy(colors[..., :3].copy()).permute(0, 3, 1, 2), highest


def _high(bits: np.ndarray) -> float:
    """Where the scale of maps ends: the quantile below which 99% of the pixels lie."""
    known = bits[np.isfinite(bits)]
    return float(np.quantile(known, _SHOWN_SHARE, method="higher")) if known.size else 1.0


def image_beside_map(
    images: Float[torch.Tensor, "n channels height width"], found: BoundMap
) -> Figure:
    """Each image above the map of its bound, in bits a pixel on one scale for all.

    Args:
        images: in network space [−1, 1], grey or RGB.
        found: their maps.

    Raises:
        NelboError: another number of maps than images, or images neither grey nor RGB.
    """
    maps = (found.by_pixel.detach().cpu().double() / math.log(2.0)).numpy()
    if len(images) != len(maps):
        raise NelboError(f"{len(maps)} maps were given for {len(images)} images")
    if images.shape[1] not in _CHANNELS:
        raise NelboError(f"images must have 1 (grey) or 3 (RGB) channels, got {images.shape[1]}")
    figure = new_figure(0.6 + 1.05 * len(images), 2.5)
    axes = figure.subplots(2, len(images), squeeze=False)
    pictures = ((images.detach().cpu().clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).numpy()
    low, high = min(0.0, float(np.nanmin(maps))), _high(maps)
    shown = None
    for column, (picture, bits) in enumerate(zip(pictures, maps, strict=True)):
        axes[0, column].imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1)
        shown = axes[1, column].imshow(bits, cmap="viridis", vmin=low, vmax=high)
        axes[1, column].set_title(
            f"{number(float(bits.sum()), 0)} bits", fontsize=9, color=COLORS["ink"], y=-0.3
        )
    for axis in axes.flat:
        axis.set_axis_off()
    assert shown is not None
    above = "max" if high < np.nanmax(maps) else "neither"
    bar = figure.colorbar(shown, ax=axes[1, :].tolist(), fraction=0.04, pad=0.02, extend=above)
    bar.set_label("bits", color=COLORS["muted"], fontsize=9.5)
    bar.ax.tick_params(colors=COLORS["muted"], labelsize=8.5, length=0)
    bar.outline.set_visible(False)
    return figure
