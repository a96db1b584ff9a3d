"""Plots of the bound and of training, each a matplotlib figure; `nelbo.report.theme` writes them.

All bounds are in bits per dimension, so that the plots read beside the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from nelbo.chain.bound import Bound
from nelbo.chain.evidence import Evidence
from nelbo.diffusion.schedule import NoiseSchedule
from nelbo.report.axes import (
    DYNAMIC_RANGE,
    PLAIN,
    cost_axis,
    legend,
    new_plot,
    nothing,
    round_ticks,
)
from nelbo.report.formatting import number
from nelbo.report.theme import COLORS

Array = NDArray[np.float64]

HEADLINE = "test"  # the split that is drawn in front
_POOLS = 72
_FEW = 24
_USUAL_SCHEDULES = {"linear": "--", "cosine": ":"}


def kl_by_level(bounds: Mapping[str, Bound], *, unit: str = "bits/dim") -> Figure:
    """What one image pays at each level on average, in bits/dim per level.

    The score matching terms are a line a split; the reconstruction term is marked at t = 1.

    Args:
        bounds: by the name of their split.
        unit: what to call bits per dimension.
    """
    figure, axes = new_plot()
    for split, bound in _front_last(bounds):
        levels, nats = bound.by_level()
        x, y = _pooled(_numbers(levels), nats.cpu().numpy() / bound.nats_per_bit_per_dim)
        color = COLORS["score-matching" if split == front(bounds) else "train"]
        marker = "o" if len(x) <= _FEW else None
        axes.plot(x, y, color=color, marker=marker, markersize=4, linewidth=1.8, label=split)
        reconstruction = -bound.mean().reconstruction.mean / bound.nats_per_bit_per_dim
        if shows_reconstruction(bound):
            filled = COLORS["reconstruction"] if split == front(bounds) else "none"
            axes.plot(
                [1.0],
                [reconstruction],
                "D",
                color=COLORS["reconstruction"],
                markerfacecolor=filled,
                markersize=6.5,
                label=f"reconstruction, {split}",
                zorder=4 if split == front(bounds) else 3,
            )
    drawn = [line.get_ydata() for line in axes.lines]
    cost_axis(axes, np.concatenate(drawn).astype(np.float64) if drawn else np.empty(0))
    _level_axis(axes, bounds)
    axes.set_ylabel(f"{unit} per level")
    legend(axes, loc="best")
    return figure


def cumulative_bound(bounds: Mapping[str, Bound], *, unit: str = "bits/dim") -> Figure:
    """The bound spent up to each level: reconstruction, then score matching, then the prior.

    The filled areas are those of the test split, or of the last where there is none; the others
    are lines. Arguments are those of `kl_by_level`.
    """
    figure, axes = new_plot()
    for split, bound in _front_last(bounds):
        levels, spent = spent_by_level(bound)
        x = _numbers(levels)
        is_front = split == front(bounds)
        color = COLORS["ink" if is_front else "train"]
        axes.plot(x, spent, color=color, linewidth=1.8, label=split, zorder=4 if is_front else 3)
        # Areas show parts of a whole, which a bound with gains in it is not.
        if not is_front or spent.min() < 0 or not 0 < spent[-1] < math.inf:
            continue
        reconstruction = np.full_like(spent, spent[0])
        before_prior = spent.copy()
        before_prior[-1] = spent[-1] - bound.mean().in_bits["prior_matching"].mean
        areas = [("score-matching", reconstruction, before_prior)]
        if shows_reconstruction(bound):
            areas.insert(0, ("reconstruction", np.zeros_like(spent), reconstruction))
        for term, low, high in areas:
            axes.fill_between(
                x,
                low,
                high,
                color=COLORS[term],
                alpha=0.35,
                linewidth=0,
                label=term.replace("-", " "),
            )
        share = axes.secondary_yaxis(
            "right", functions=_scaling(100.0 / spent[-1], spent[-1] / 100.0)
        )
        share.set_yticks([0.0, 25.0, 50.0, 75.0, 100.0])
        share.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}%"))
        share.spines["right"].set_visible(False)
        share.tick_params(colors=COLORS["muted"], labelsize=9.5, length=0)
        axes.set_ylim(0, spent[-1] * 1.06)
    _level_axis(axes, bounds)
    axes.yaxis.set_major_locator(round_ticks(6))
    axes.yaxis.set_major_formatter(PLAIN)
    axes.set_ylabel(f"{unit} spent up to level t")
    legend(axes, loc="upper left")
    return figure


def level_profile(bound: Bound, *, unit: str = "bits/dim") -> Figure:
    """What each level costs on average, with a band of two standard errors, in bits/dim.

    Neighbouring levels are pooled where there are more than the eye can part. Where only one image
    was evaluated there is no band.
    """
    figure, axes = new_plot()
    if bound.levels.numel() == 0:
        return nothing(figure, axes, "a chain of one level has no score matching terms")
    levels = bound.levels.unique().cpu().double().numpy()
    # Groups without a gap, for pools between sparse levels stay empty.
    groups = None if len(levels) <= _POOLS else np.unique(_pools(levels), return_inverse=True)[1]
    profile = bound.level_means(None if groups is None else torch.from_numpy(groups))
    x, _ = _pooled(levels, levels)
    y = profile.mean.cpu().numpy() / bound.nats_per_bit_per_dim
    band = 2 * profile.standard_error.cpu().numpy() / bound.nats_per_bit_per_dim
    color = COLORS["score-matching"]
    axes.fill_between(x, y - band, y + band, color=color, alpha=0.25, linewidth=0)
    axes.plot(x, y, color=color, linewidth=1.6, marker="o" if len(x) <= _FEW else None)
    cost_axis(axes, y)
    _level_axis(axes, {"": bound})
    axes.set_ylabel(f"{unit} per level ± 2 standard errors")
    return figure


def bits_histogram(bound: Evidence, *, unit: str = "bits/dim") -> Figure:
    """How bits per dimension spread over the images of one split, with their mean."""
    figure, axes = new_plot()
    bits = bound.bits_per_dim.detach().cpu().double().numpy()
    bits = bits[np.isfinite(bits)]
    if len(bits) == 0:
        return nothing(figure, axes, "no image has a finite bound")
    bins = int(np.clip(np.sqrt(len(bits)) * 1.6, 1, 60))
    axes.hist(bits, bins, color=COLORS["score-matching"], alpha=0.55, linewidth=0, rwidth=0.92)
    axes.axvline(bits.mean(), color=COLORS["ink"], linewidth=1.4)
    axes.annotate(
        f"mean {number(bits.mean(), 3)}",
        (bits.mean(), 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(5, -2),
        textcoords="offset points",
        va="top",
        color=COLORS["ink"],
        fontsize=9.5,
    )
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_locator(round_ticks(7))
    axes.xaxis.set_major_formatter(PLAIN)
    axes.margins(y=0.12)
    axes.set_xlabel(unit)
    axes.set_ylabel("images")
    return figure


def noise_schedule(schedule: NoiseSchedule) -> Figure:
    """log SNR at every level of a chain, beside usual schedules of the same length."""
    figure, axes = new_plot()
    T = schedule.num_levels
    for name, style in _USUAL_SCHEDULES.items():
        usual = getattr(NoiseSchedule, name)(T)
        axes.plot(
            *_log_snr(usual), color=COLORS["train"], linestyle=style, linewidth=1.2, label=name
        )
    levels, log_snr = _log_snr(schedule)
    marker = "o" if T <= _FEW else None
    color = COLORS["score-matching"]
    axes.plot(
        levels, log_snr, color=color, marker=marker, markersize=4, linewidth=1.8, label="this chain"
    )
    axes.xaxis.set_major_formatter(PLAIN)
    axes.set_xlabel("level t (data on the left, noise on the right)")
    axes.set_ylabel("log SNR")
    if len(log_snr):  # the others may go far beyond
        axes.set_ylim(log_snr.min() - 2, log_snr.max() + 3)
    legend(axes, loc="best")
    return figure


def spent_by_level(bound: Bound) -> tuple[torch.Tensor, Array]:
    """Mean bits/dim spent up to each evaluated level: levels from 1 to T, and the running sum.

    The first value is the reconstruction term. The last holds the prior matching term too, so that
    it is the bound itself, also where only some levels were evaluated.
    """
    levels, where = bound.levels.flatten().unique(return_inverse=True)
    spent = torch.zeros(len(levels), dtype=torch.float64, device=bound.levels.device)
    weighted = (bound.weights * bound.score_matching).detach().flatten().double()
    spent = spent.index_add(0, where, weighted).cpu() / len(bound)
    summary = bound.mean()
    costs = torch.cat([torch.tensor([-summary.reconstruction.mean], dtype=torch.float64), spent])
    total = costs.cumsum(0)
    total[-1] += summary.prior_matching.mean
    first = torch.ones(1, dtype=torch.int64)
    return torch.cat([first, levels.cpu()]), total.numpy() / bound.nats_per_bit_per_dim


def shows_reconstruction(bound: Bound) -> bool:
    """Whether the reconstruction term is a cost that can be seen beside those of the levels."""
    highest = bound.by_level()[1].max().item() if bound.levels.numel() else 0.0
    return -bound.mean().reconstruction.mean > DYNAMIC_RANGE * highest


def half_spent_level(bound: Bound) -> int | None:
    """The first level up to which half of the bound is spent; None for a bound that is no cost."""
    levels, spent = spent_by_level(bound)
    if not np.isfinite(spent).all() or spent.min() < 0 or spent[-1] <= 0:
        return None
    return int(levels[int(np.argmax(spent >= spent[-1] / 2))])


def front(bounds: Mapping[str, Any]) -> str | None:
    """The split that is drawn in front: the test split, or else the last; None without any."""
    return HEADLINE if HEADLINE in bounds else next(reversed(list(bounds)), None)


def _front_last(bounds: Mapping[str, Bound]) -> list[tuple[str, Bound]]:
    return sorted(bounds.items(), key=lambda item: item[0] == front(bounds))


def _numbers(levels: torch.Tensor) -> Array:
    return levels.cpu().double().numpy()


def _pooled(x: Array, y: Array) -> tuple[Array, Array]:
    """Neighbours averaged where there are more points than the eye can part."""
    if len(x) <= _POOLS:
        return x, y
    scaled = np.log(x) if x.min() > 0 else x
    pool = _pools(x)
    used = np.unique(pool)
    middle = np.array([scaled[pool == p].mean() for p in used])
    return (np.exp(middle) if x.min() > 0 else middle), np.array(
        [y[pool == p].mean() for p in used]
    )


def _pools(x: Array) -> NDArray[np.int64]:
    """The pool of each point, evenly spaced on the logarithmic axis."""
    scaled = np.log(x) if x.min() > 0 else x
    edges = np.linspace(scaled.min(), scaled.max(), _POOLS + 1)
    return np.clip(np.digitize(scaled, edges) - 1, 0, _POOLS - 1)


def _log_snr(schedule: NoiseSchedule) -> tuple[Array, Array]:
    """The levels that have both signal and noise, and their log SNR."""
    log_snr = schedule.log_snr.numpy()
    levels = np.flatnonzero(np.isfinite(log_snr))
    return levels.astype(np.float64), log_snr[levels]


def _level_axis(axes: Axes, bounds: Mapping[str, Bound]) -> None:
    highest = max((int(b.levels.max()) for b in bounds.values() if b.levels.numel()), default=1)
    axes.set_xscale("log")
    axes.set_xlim(0.85, max(highest, 2) * 1.1)
    if highest <= 20:
        axes.set_xticks(np.arange(1.0, highest + 1, 1 if highest <= 10 else 3))
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if highest < 300 else (1.0,)))
    axes.xaxis.set_major_formatter(PLAIN)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("level t (data on the left, noise on the right)")


def _scaling(forward: float, backward: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    return (lambda value: value * forward, lambda value: value * backward)
