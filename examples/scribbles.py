"""Ten scribbles, each with a word: what `emoji-scribble` makes of them.

    python examples/scribbles.py [--out scribbles.png] [--run emoji-scribble]

The lines are as a mouse would draw them: few corners, not closed, of no right proportions. Each row
has the scribble, three pictures with the word, and one with the word and without the scribble.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

import nelbo
from nelbo import Control
from nelbo.report.captions import prompt_grid
from nelbo.report.grids import save_image

SIDE, FINER = 32, 8
SEEDS = 3
Line = list[tuple[float, float]]


def arc(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 350) -> Line:
    """Part of an ellipse, in degrees from the right, clockwise."""
    steps = [math.radians(start + (end - start) * i / 12) for i in range(13)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in steps]


def path(corners: str) -> Line:
    """Straight strokes from corner to corner, "x,y x,y ..."."""
    return [(float(x), float(y)) for x, y in (corner.split(",") for corner in corners.split())]


SCRIBBLES: dict[str, list[Line]] = {
    "red apple": [arc(16, 18, 10, 10, -80, 265), path("16,8 17,3"), path("17,6 22,3")],
    "fish": [arc(14, 16, 10, 6, 10, 345), path("23,15 29,9 29,22 23,17"), arc(9, 14, 1, 1)],
    "house": [path("6,15 6,28 26,27 25,15"), path("3,16 16,4 29,16")],
    "glowing star": [
        path("16,3 20,13 30,13 22,19 25,29 15,22 7,29 10,18 2,13 13,12 16,4"),
    ],
    "red heart": [path("16,28 4,15 4,8 10,5 16,10 22,4 28,8 28,15 17,28")],
    "mushroom": [
        arc(16, 16, 12, 11, 180, 360),
        path("4,16 28,17"),
        path("12,17 12,28 20,28 20,17"),
    ],
    "automobile": [
        path("3,22 3,16 8,15 12,9 22,9 25,15 29,17 29,22 4,22"),
        arc(9, 23, 3, 3),
        arc(23, 23, 3, 3),
    ],
    "umbrella": [
        arc(16, 15, 12, 11, 180, 358),
        path("4,15 28,16"),
        path("16,15 16,27 13,29"),
    ],
    "evergreen tree": [
        path("16,2 6,15 11,15 4,25 28,25 21,15 26,14 16,3"),
        path("14,25 14,30 18,30 18,25"),
    ],
    "cat face": [
        arc(16, 18, 11, 10, -40, 220),
        path("8,11 6,3 13,8 19,8 26,3 25,12"),
        arc(12, 16, 1, 1),
        arc(20, 16, 1, 1),
    ],
}


def drawn(lines: list[Line], width: float = 1.4) -> Tensor:
    """White lines on black, (3, SIDE, SIDE) in 0..1."""
    page = Image.new("L", (SIDE * FINER, SIDE * FINER))
    pen = ImageDraw.Draw(page)
    for line in lines:
        points = [(FINER * x, FINER * y) for x, y in line]
        pen.line(points, fill=255, width=round(FINER * width), joint="curve")
    small = page.resize((SIDE, SIDE), Image.Resampling.BOX)
    values = torch.tensor(list(small.tobytes()), dtype=torch.float32).view(1, SIDE, SIDE)
    return (values / 255).expand(3, -1, -1)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--run", default="emoji-scribble")
    parser.add_argument("--out", type=Path, default=Path("scribbles.png"))
    parser.add_argument("--guidance", type=float, default=1.5)
    arguments = parser.parse_args()
    model = nelbo.load(arguments.run)
    sampler = nelbo.load_sampler(arguments.run, 25)
    rows = []
    for seed, (word, lines) in enumerate(SCRIBBLES.items()):
        control = drawn(lines)
        pictures = [control]
        for scale, count in ((1.0, SEEDS), (0.0, 1)):
            x = model.sample(
                count,
                sampler,
                prompt=word,
                control=Control(control[None].expand(count, -1, -1, -1), scale=scale),
                guidance=arguments.guidance,
                generator=torch.Generator().manual_seed(seed),
            )
            pictures += [model.data.to_levels(one) / 255 for one in x]
        rows.append(torch.cat(pictures, dim=2))
    levels = (255 * torch.stack(rows).clamp(0, 1)).round().to(torch.uint8)
    save_image(prompt_grid(levels, list(SCRIBBLES)), arguments.out)


if __name__ == "__main__":
    main()
