"""Where the bits of a bound go: in the image and along the chain.

    python examples/where_the_bits_go.py RUN [--out docs/images] [--images 64] [--levels 100]

draws test images of the data that RUN was trained on beside the map of their bound, and the cost of
each level with its standard error (docs/tighter-bounds.md shows them).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

import nelbo
from nelbo.report import plots
from nelbo.report.grids import to_bytes
from nelbo.report.map_plots import heat
from nelbo.report.theme import new_figure
from nelbo.runs.run_data import check_data, data_for_run
from nelbo.runs.run_directory import RunDirectory

SHOWN = 6


def image_beside_map(pixels: torch.Tensor, found: nelbo.BoundMap) -> Figure:
    """Each image above the map of its bound, in bits a pixel on one scale for all."""
    figure = new_figure(0.6 + 1.05 * len(pixels), 2.5)
    axes = figure.subplots(2, len(pixels), squeeze=False)
    colors, brightest = heat(found.by_pixel)
    bits = found.by_pixel.flatten(1).sum(1) / math.log(2.0)
    for column, (picture, map_, total) in enumerate(zip(pixels, colors, bits, strict=True)):
        axes[0, column].imshow(picture.permute(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)
        axes[1, column].imshow(map_.permute(1, 2, 0))
        axes[1, column].set_title(f"{float(total):.0f} bits", fontsize=9, y=-0.3)
    for axis in axes.flat:
        axis.set_axis_off()
    scale = ScalarMappable(Normalize(0, brightest), "viridis")
    bar = figure.colorbar(
        scale, ax=axes[1, :].tolist(), fraction=0.04, pad=0.02, label="bits", extend="max"
    )
    bar.outline.set_visible(False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--levels", type=int, default=100)
    arguments = parser.parse_args()
    model = nelbo.load(arguments.run)
    if not isinstance(model, nelbo.Diffusion):
        parser.error(f"{arguments.run} is not a model of pixels")
    source = check_data(RunDirectory.open(arguments.run), None, "test")
    data = data_for_run(source, model).take(slice(arguments.images))
    x_0 = model.data.to_network(data.images)
    generator = torch.Generator().manual_seed(0)
    condition = data.condition() if model.num_classes else None
    with torch.no_grad():
        found = model.bound_map(x_0, condition, levels=arguments.levels, generator=generator)
    gap = (found.by_pixel.flatten(1).sum(1) - found.bound.nelbo).abs() / found.bound.nelbo
    print(f"maps sum to their bounds within {gap.max():.1e}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    shown = nelbo.BoundMap(found.nats[:SHOWN], found.bound)
    pixels = to_bytes(data.images[:SHOWN], data.levels)
    figures = {
        "bound-map": image_beside_map(pixels, shown),
        "level-profile": plots.level_profile(found.bound),
    }
    for name, figure in figures.items():
        path = arguments.out / f"{name}.png"
        figure.savefig(path, dpi=110, transparent=True)
        print(path)


if __name__ == "__main__":
    main()
