"""Do pictures follow the lines of a control? F1 of their edges against those of the real picture.

    python benchmarks/control_edges.py [RUN] [--control scribble] [--images 100] [--grid FILE]

RUN is a latent model with a ControlNet, or the name of one that ships. For each held-out emoji its
name and a control that is made of it (`nelbo.data.annotators`) are given, and the edges (Canny) of
what is drawn are compared with those of the emoji: precision is the share of drawn edge pixels with
an edge of the emoji within one pixel, recall the reverse, F1 their harmonic mean. Beside it are the
same noise and name without the control, and the emoji after the autoencoder, which is the most that
a perfect prior could reach. At 32×32 edges are everywhere, and those of another emoji show what
chance gives. Of a scribble's wobble and wrong proportions F1 is an unkind judge: the lines of the
scribble itself, against the same edges, are in the last row. People in skin tones are left out, as
a model of emoji knows their neighbours, and draws the right picture from the name alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from text_alignment import reconstruct
from torch import Tensor
from torch.nn import functional as F

import nelbo
from nelbo import Control
from nelbo.chain.distributions import generator_for
from nelbo.chain.estimate import Estimate
from nelbo.data import load_data
from nelbo.data.annotators import ANNOTATORS
from nelbo.data.controls import Annotated
from nelbo.formats.files import read_own
from nelbo.formats.model_directory import resolve
from nelbo.report.captions import prompt_grid
from nelbo.report.grids import save_image

BATCH = 20
LINE = 96  # level from which a pixel of a scribble is a line


def edges(images: Tensor) -> Tensor:
    """Where Canny finds edges in colour pictures, (N, H, W) bool."""
    every = torch.arange(len(images))
    return Annotated("canny").of(images, every, (0,))[:, 0] > 0


def f1(found: Tensor, given: Tensor, tolerance: int = 1) -> Tensor:
    """The F1 of edges with a tolerance in pixels, (N,); 0 where either has none."""

    def near(where: Tensor) -> Tensor:
        return F.max_pool2d(where[:, None].float(), 2 * tolerance + 1, 1, tolerance)[:, 0]

    def share(of: Tensor, at: Tensor) -> Tensor:
        return (of * near(at)).flatten(1).sum(1) / of.flatten(1).sum(1).clamp(min=1)

    precision, recall = share(found.double(), given), share(given.double(), found)
    return 2 * precision * recall / (precision + recall).clamp(min=1e-9)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", nargs="?", default="emoji-scribble")
    parser.add_argument("--control", choices=tuple(ANNOTATORS), default="scribble")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--guidance", type=float, help="default: that of the run's own samples")
    parser.add_argument("--steps", type=int, default=25, help="of the run's own sampler")
    parser.add_argument("--scale", type=float, default=1.0, help="of the control")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--grid", type=Path, help="draw emoji, control, with and without it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = nelbo.load(arguments.run)
    if not isinstance(model, nelbo.LatentDiffusion) or model.control_shape is None:
        parser.error(f"{arguments.run} is not a latent model with a ControlNet")
    sampler = nelbo.load_sampler(arguments.run, arguments.steps)
    guidance = arguments.guidance
    if guidance is None:
        own = read_own(resolve(arguments.run)) or {}
        guidance = own.get("settings", {}).get("model", {}).get("guidance") or 1.5
    data = load_data("emoji", arguments.split, size=model.shape[1])
    told = [i for i, name in enumerate(data.captions or ()) if name and "skin tone" not in name]
    data = data.take(torch.tensor(told)).subset(arguments.images, arguments.seed)
    controlled = Annotated(arguments.control).of_all(data, arguments.seed)
    assert controlled.controls is not None

    def draw(scale: float) -> Tensor:
        parts = []
        for start in range(0, len(data), BATCH):
            some = slice(start, start + BATCH)
            control = controlled.controls[some].float() / 255
            x = model.sample(
                len(control),
                sampler,
                prompt=[caption or "" for caption in (data.captions or ())[some]],
                control=Control(control, scale=scale),
                guidance=guidance,
                generator=[generator_for(arguments.seed, start + i) for i in range(len(control))],
            )
            parts.append(model.data.to_levels(x).round().to(torch.uint8))
        return torch.cat(parts)

    given = edges(data.images)
    pictures = {
        f"with the {arguments.control}": draw(arguments.scale),
        "without it, the same noise": draw(0.0),
        "the emoji after the autoencoder": reconstruct(model, data.images),
    }
    found = {name: f1(edges(images), given) for name, images in pictures.items()}
    found["another emoji"] = f1(given.roll(1, 0), given)
    found[f"the {arguments.control} itself"] = f1(controlled.controls[:, 0] > LINE, given)
    print(f"F1 of edges, {len(data)} emoji of {arguments.split}, guidance {guidance:g}")
    for name, each in found.items():
        mean = Estimate.of(each)
        print(f"  {name:40} {mean.mean:.3f} ± {mean.standard_error:.3f}")
    with_it, without = [found[name] for name in list(found)[:2]]
    gain = Estimate.of(with_it - without)
    print(f"  {'gain, paired':40} {gain.mean:+.3f} ± {gain.standard_error:.3f}")
    if arguments.grid:
        drawn = [pictures[name] for name in list(pictures)[:2]]
        beside = torch.cat([data.images, controlled.controls, *drawn], dim=3)
        save_image(
            prompt_grid(beside, [caption or "" for caption in data.captions or ()]), arguments.grid
        )


if __name__ == "__main__":
    main()
