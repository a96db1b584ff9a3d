"""The pictures of docs/editing.md, from a run on the digits.

nelbo train digits --out runs/digits --time-budget 120s
python examples/editing.py --run runs/digits --out docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import nelbo
from nelbo.data import load_data
from nelbo.editing import ImageToImage, Inpainting, Interpolation, Inversion
from nelbo.report.grids import image_grid, save_image
from nelbo.samplers import DDIM, DDPM

STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
VARIANTS = 5


def strip(model: nelbo.Diffusion, rows: list[list[torch.Tensor]], path: Path) -> None:
    frames = model.data.to_levels(torch.stack([x for row in rows for x in row])).byte()
    save_image(image_grid(frames, model.data.levels, columns=len(rows[0])), path)


def image_to_image(model: nelbo.Diffusion, digits: torch.Tensor, path: Path) -> None:
    columns = [digits]
    for strength in STRENGTHS:
        edit = ImageToImage(DDIM(50, spacing="trailing"), strength)
        columns.append(edit.edit(model, digits, generator=torch.Generator().manual_seed(0)))
    strip(model, [list(row) for row in zip(*columns, strict=True)], path)


def inpainting(model: nelbo.Diffusion, digits: torch.Tensor, path: Path) -> None:
    mask = torch.zeros(digits.shape[2:], dtype=torch.bool)
    mask[digits.shape[2] // 2 :] = True
    edit = Inpainting(mask, DDPM(100, spacing="trailing"), jump_length=10, jump_n_sample=5)
    generator = torch.Generator().manual_seed(0)
    repeated = digits.repeat_interleave(VARIANTS, 0)
    painted = edit.edit(model, repeated, generator=generator).unflatten(0, (-1, VARIANTS))
    shown = torch.where(mask, torch.zeros(()), digits)
    rows = [
        [digit, hidden, *row] for digit, hidden, row in zip(digits, shown, painted, strict=True)
    ]
    strip(model, rows, path)


def interpolation(model: nelbo.Diffusion, digits: torch.Tensor, path: Path) -> None:
    sampler = DDIM(50, spacing="trailing")
    rows = [
        [digits[0], *Interpolation(8, sampler).edit(model, digits[:2]), digits[1]],
        [
            digits[0],
            *Interpolation(8, sampler, "diffusion", strength=0.6).edit(
                model, digits[:2], generator=torch.Generator().manual_seed(0)
            ),
            digits[1],
        ],
    ]
    strip(model, rows, path)


def inversion(model: nelbo.Diffusion, digits: torch.Tensor) -> None:
    print("round trip image → x_T → image, root mean square error of the pixels in [−1, 1]")
    print("steps   explicit   3 refinements")
    for steps in (10, 25, 50, 100):
        sampler = DDIM(steps, spacing="trailing")
        errors = []
        for refinements in (0, 3):
            x_T = Inversion(sampler, refinements).edit(model, digits)
            errors.append((sampler.sample(model, x_T) - digits).square().mean().sqrt().item())
        print(f"{steps:5d}   {errors[0]:8.4f}   {errors[1]:13.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    model = nelbo.load(arguments.run)
    digits = model.data.to_network(load_data("digits", "test").images[[3, 0, 8, 15]])
    image_to_image(model, digits, arguments.out / "image-to-image.png")
    inpainting(model, digits, arguments.out / "inpainting.png")
    interpolation(model, digits, arguments.out / "interpolation.png")
    inversion(model, digits)


if __name__ == "__main__":
    main()
