"""Where the bits of a bound go: in the image, along the chain, and over channels.

    python examples/where_the_bits_go.py RUN [--out docs/images] [--images 64] [--levels 100]

draws test images of the data that RUN was trained on beside the map of their bound, and the cost of
each level with its standard error (docs/tighter-bounds.md shows them).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import nelbo
from nelbo.commands.run_data import data_for_run
from nelbo.report import map_plots, plots
from nelbo.report.theme import to_png

SHOWN = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--levels", type=int, default=100)
    arguments = parser.parse_args()
    model = nelbo.load(arguments.run).eval()
    data = data_for_run(arguments.run, model, None, "test").take(slice(arguments.images))
    x_0 = model.data.to_network(data.images)
    generator = torch.Generator().manual_seed(0)
    condition = data.condition() if model.num_classes else None
    with torch.no_grad():
        found = model.bound_map(x_0, condition, levels=arguments.levels, generator=generator)
    gap = (found.by_pixel.flatten(1).sum(1) - found.bound.nelbo).abs() / found.bound.nelbo
    print(f"maps sum to their bounds within {gap.max():.1e}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    shown = nelbo.BoundMap(found.nats[:SHOWN], found.bound)
    figures = {
        "bound-map": map_plots.image_beside_map(x_0[:SHOWN], shown),
        "level-profile": plots.level_profile(found.bound),
    }
    if x_0.shape[1] > 1:
        figures["by-channel"] = map_plots.cost_by_channel(found)
    for name, figure in figures.items():
        path = arguments.out / f"{name}.png"
        path.write_bytes(to_png(figure, dpi=110))
        print(path)


if __name__ == "__main__":
    main()
