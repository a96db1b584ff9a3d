"""Which score finds odd pictures: bits/dim, or bits/dim above what a lossless coder takes.

    python benchmarks/odd_pictures.py RUN FOLDER --size 16 --other FLAGS PHOTOS

RUN was trained on FOLDER at this size. The figure is the area under the ROC curve of odd pictures
against the test pictures as they are: for damages, of each damaged test picture against the other
test pictures; for another folder, of its test pictures against them. Its standard error is that of
1,000 bootstrap draws of the pictures of both kinds.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import nelbo
from nelbo.chain.bound import Bound
from nelbo.data import ImageData, load_data
from nelbo.evidence import excess_bits

LEVELS, BATCH, DRAWS = 50, 64, 1000
Damage = Callable[[Tensor, int, torch.Generator], Tensor]


def noise(images: Tensor, top: int, g: torch.Generator) -> Tensor:
    """15% of the values replaced by any pixel level."""
    mask = torch.rand(images.shape, generator=g) < 0.15
    return torch.where(mask, torch.randint(0, top + 1, images.shape, generator=g), images)


def grey_square(images: Tensor, top: int, g: torch.Generator) -> Tensor:
    """A grey square over a sixteenth of the area, somewhere."""
    images, side = images.clone(), images.shape[-1] // 4
    for image in images:
        row, column = torch.randint(0, images.shape[-1] - side, (2,), generator=g).tolist()
        image[:, row : row + side, column : column + side] = top // 2
    return images


def blurred(images: Tensor, top: int, g: torch.Generator) -> Tensor:
    """The mean of 3 × 3 pixels."""
    padded = torch.nn.functional.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, 3, 1).round()


DAMAGES: dict[str, Damage] = {
    "noise on 15% of the values": noise,
    "grey square on 1/16 of the area": grey_square,
    "blurred, 3 × 3": blurred,
    "rotated by 90°": lambda images, top, g: images.rot90(1, (2, 3)),
    "upside down": lambda images, top, g: images.rot90(2, (2, 3)),
    "inverted": lambda images, top, g: top - images,
    "red and blue exchanged": lambda images, top, g: images.flip(1),
}


def scores(model: nelbo.Diffusion, data: ImageData, seed: int) -> tuple[Tensor, Tensor]:
    """Bits/dim of each picture, and its excess over the better of PNG and lossless WebP."""
    generator = torch.Generator().manual_seed(seed)
    x_0 = model.data.to_network(data.images)
    with torch.no_grad():
        bound = Bound.cat(
            [model.elbo(part, levels=LEVELS, generator=generator) for part in x_0.split(BATCH)]
        )
    return bound.bits_per_dim.double(), excess_bits(bound, data)


def area(odd: Tensor, plain: Tensor, paired: bool) -> tuple[float, float]:
    """The probability that an odd picture has the higher score, and its standard error."""
    above = (odd[:, None] > plain).double() + 0.5 * (odd[:, None] == plain).double()
    counts = torch.ones_like(above)
    if paired:  # never a picture against itself
        counts.fill_diagonal_(0.0)
    g = torch.Generator().manual_seed(0)
    found = []
    for _ in range(DRAWS):
        rows = torch.randint(len(odd), (len(odd),), generator=g)
        columns = rows if paired else torch.randint(len(plain), (len(plain),), generator=g)
        weights = counts[rows][:, columns]
        found.append(float((above[rows][:, columns] * weights).sum() / weights.sum()))
    return float((above * counts).sum() / counts.sum()), float(torch.tensor(found).std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("folder")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--other", nargs="*", default=[])
    arguments = parser.parse_args()
    model = nelbo.load(arguments.run)
    plain = load_data(arguments.folder, "test", size=arguments.size)
    odd: dict[str, tuple[ImageData, bool]] = {}
    for name, damage in DAMAGES.items():
        g = torch.Generator().manual_seed(1)
        images = damage(plain.images.long(), plain.levels - 1, g).to(torch.uint8)
        odd[name] = (dataclasses.replace(plain, images=images, pixel_keys=None), True)
    for folder in arguments.other:
        data = load_data(folder, "test", size=arguments.size).subset(len(plain), 0)
        odd[f"pictures of {folder}"] = (data, False)
    table = Table(title=f"area under the ROC curve, {len(plain)} test pictures of {plain.source}")
    for column in ("odd pictures", "bits/dim", "excess over PNG or WebP"):
        table.add_column(column, justify="left" if column == "odd pictures" else "right")
    reference = scores(model, plain, 0)
    for seed, (name, (data, paired)) in enumerate(odd.items(), 1):
        found = scores(model, data, seed)
        areas = [area(a, b, paired) for a, b in zip(found, reference, strict=True)]
        table.add_row(name, *(f"{value:.3f} ± {error:.3f}" for value, error in areas))
    Console().print(table)


if __name__ == "__main__":
    main()
