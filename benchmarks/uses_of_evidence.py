"""What the bound finds: corrupted images among clean ones, and the class of an image.

    python benchmarks/uses_of_evidence.py [--run RUN] [--conditional RUN]

RUN is a run on the digits, RUN of --conditional one trained with --class-conditional; what is
missing is trained, two minutes each. For each kind of corruption, 20 of the 299 test images are
replaced; the figure is the area under the ROC curve of bits/dim, the mean over several choices of
the 20.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _digits import digits_run
from rich.console import Console
from rich.table import Table
from torch import Tensor

import nelbo
from nelbo.data import load_data
from nelbo.diffusion import Diffusion
from nelbo.evidence import Classification, classify

CORRUPTED, LEVELS, REPEATS = 20, 50, 10
Corruption = Callable[[Tensor, torch.Generator], Tensor]


def noise(images: Tensor, g: torch.Generator) -> Tensor:
    """15% of the pixels replaced by any pixel level."""
    mask = torch.rand(images.shape, generator=g) < 0.15
    return torch.where(mask, torch.randint(0, 17, images.shape, generator=g), images.long()).byte()


def gaussian(images: Tensor, g: torch.Generator) -> Tensor:
    """Gaussian noise of two pixel levels, rounded."""
    return (images + 2 * torch.randn(images.shape, generator=g)).round().clamp(0, 16).byte()


def occluded(level: int, side: int) -> Corruption:
    """A square of one pixel level somewhere over the digit."""

    def corrupt(images: Tensor, g: torch.Generator) -> Tensor:
        images = images.clone()
        for image in images:
            row, column = torch.randint(1, 8 - side, (2,), generator=g).tolist()
            image[:, row : row + side, column : column + side] = level
        return images

    return corrupt


CORRUPTIONS: dict[str, Corruption] = {
    "noise, 15% of the pixels": noise,
    "Gaussian noise, 2 levels": gaussian,
    "white square, 3 × 3": occluded(16, 3),
    "grey square, 3 × 3": occluded(8, 3),
    "grey square, 4 × 4": occluded(8, 4),
    "black square, 3 × 3": occluded(0, 3),
    "rotated by 90°": lambda images, g: images.rot90(1, (2, 3)),
    "upside down": lambda images, g: images.rot90(2, (2, 3)),
    "mirrored": lambda images, g: images.flip(3),
    "inverted": lambda images, g: 16 - images,
}


def bits(model: Diffusion, images: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        x_0 = model.data.to_network(images)
        return model.elbo(x_0, levels=LEVELS, generator=generator).bits_per_dim


def area_under_curve(corrupted: Tensor, clean: Tensor) -> float:
    """The probability that a corrupted image costs more than a clean one."""
    above = (corrupted[:, None] > clean).double() + 0.5 * (corrupted[:, None] == clean).double()
    return float(above.mean())


def ranking(model: Diffusion) -> Table:
    images = load_data("digits", "test").images
    plain = bits(model, images, 0)
    table = Table(title=f"{CORRUPTED} corrupted of {len(images)}, {LEVELS} levels an image")
    table.add_column("corruption")
    table.add_column("area under the ROC curve", justify="right")
    for name, corrupt in CORRUPTIONS.items():
        areas = []
        for repeat in range(REPEATS):
            g = torch.Generator().manual_seed(repeat)
            order = torch.randperm(len(images), generator=g)
            chosen, others = order[:CORRUPTED], order[CORRUPTED:]
            found = bits(model, corrupt(images[chosen], g), 1 + repeat)
            areas.append(area_under_curve(found, plain[others]))
        mean = torch.tensor(areas)
        table.add_row(name, f"{mean.mean():.3f} ± {mean.std() / REPEATS**0.5:.3f}")
    return table


def classification(model: Diffusion) -> Table:
    data = load_data("digits", "test")
    x_0 = model.data.to_network(data.images)
    table = Table(title="classes of the 299 test digits by the bound")
    for column in ("margin", "draws at most", "accuracy", "calls an image"):
        table.add_column(column, justify="right")
    for margin, draws in ((2.0, 32), (3.0, 64)):
        generator = torch.Generator().manual_seed(0)
        found = Classification.cat(
            classify(model, x_0, margin=margin, draws=draws, generator=generator)
        )
        accuracy = float(found.label.eq(data.labels).double().mean())
        calls = float(found.calls.double().mean())
        table.add_row(f"{margin:g}", str(draws), f"{accuracy:.1%}", f"{calls:.1f}")
    every = model.num_classes * model.num_levels
    table.caption = f"all classes at all levels: {every:,} calls an image"
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--run", help="a run on the digits")
    parser.add_argument("--conditional", help="a run on the digits with --class-conditional")
    arguments = parser.parse_args()
    Console().print(ranking(nelbo.load(digits_run(arguments.run))))
    run = digits_run(arguments.conditional, "--class-conditional")
    Console().print(classification(nelbo.load(run)))


if __name__ == "__main__":
    main()
