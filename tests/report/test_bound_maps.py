"""Pictures of where the bits go, in matplotlib's own data and in the page."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import Bound, BoundMap
from nelbo.report import fragments, map_plots, plots
from nelbo.report.theme import to_inline_svg


def some_map(images: int = 2, channels: int = 3, levels: int = 5) -> BoundMap:
    generator = torch.Generator().manual_seed(0)
    nats = torch.rand(images, channels, 4, 6, generator=generator)
    terms = torch.rand(images, levels, generator=generator)
    bound = Bound(
        reconstruction=-nats.flatten(1).sum(1),
        prior_matching=torch.zeros(images),
        score_matching=terms,
        levels=torch.arange(2, levels + 2).expand(images, levels),
        weights=torch.ones(images, levels),
        dims=channels * 24,
    )
    return BoundMap(nats, bound)


def test_heat_says_what_its_brightest_colour_stands_for():
    maps = torch.zeros(2, 3, 3)
    maps[1, 2, 0] = 4 * math.log(2)
    colors, bits = map_plots.heat(maps)
    assert bits == pytest.approx(4)
    assert colors[1, :, 2, 0].tolist() == [253, 231, 36]  # viridis ends in yellow
    assert colors[0].flatten(1).unique(dim=1).shape[1] == 1


@pytest.mark.parametrize("levels", [5, 400])
def test_profile_band_is_two_standard_errors(levels):
    bound = some_map(images=30, levels=levels).bound
    figure = plots.level_profile(bound)
    line = figure.axes[0].lines[0].get_ydata()
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    scale = 72 * math.log(2)
    assert len(line) <= 72
    # the last level, or the last pool of them, whose middle is drawn: one value an image
    x, last = figure.axes[0].lines[0].get_xdata(), int(bound.levels.max())
    pooled = round(2 * (last - x[-1])) + 1
    assert (pooled > 1) == (levels > 72)
    values = bound.score_matching[:, -pooled:].mean(1).double()
    error = values.std().item() / math.sqrt(30) / scale
    assert line[-1] == pytest.approx(values.mean().item() / scale, rel=1e-4)
    at_last = band[abs(band[:, 0] - x[-1]) < 1e-6 * x[-1]][:, 1]
    assert (at_last.max() - at_last.min()) / 4 == pytest.approx(error, rel=1e-3)


def test_figures_go_into_a_page_and_maps_under_images():
    found = some_map(channels=1)
    assert "<svg" in to_inline_svg(plots.level_profile(found.bound), "profile", "levels")
    colors, _ = map_plots.heat(found.by_pixel)
    html = fragments.labelled_images(
        torch.zeros(2, 1, 4, 6, dtype=torch.uint8),
        17,
        [("1", "a"), ("2", "b")],
        colors,
    )
    assert html.count("<img") == 4
