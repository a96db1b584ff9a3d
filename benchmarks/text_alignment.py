"""Does a text-to-image model of the emoji follow its prompts? Retrieval among 1,000 names.

    python benchmarks/text_alignment.py RUN [--guidance 2] [--steps 25] [--grid FILE] [--json FILE]

RUN is a latent model of the emoji with text (`nelbo train emoji --model latent ...`), or the name
of a checkpoint that ships with the package. It draws one image for each of 200 training names and
of 60 held-out ones, each a person, a profession and a skin tone that were never together in
training. A scorer that is trained here, on real training pictures only, then finds the name of each
image among 1,000; see `_alignment_scorer.py` and `_emoji_names.py`.

*by name*: the image against the names, through vectors of their words. *by picture*: the image
against the real picture of each name, in the same vectors. The real pictures, and these after the
run's autoencoder, are scored alike: what a perfect prior would get. The scorer was trained on the
real pictures of the seen names but never on those of the unseen, so the row of real pictures of
unseen names is its accuracy on images that it did not train on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import torch
from _alignment_scorer import STEPS, Scorer, load_scorer, to_network
from _emoji_names import SIZE, Names, choose_names
from _retrieval import Share, ranks, within
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import nelbo
from nelbo.chain.distributions import generator_for
from nelbo.data import load_data
from nelbo.formats.files import read_own
from nelbo.formats.model_directory import resolve
from nelbo.report.captions import prompt_grid
from nelbo.report.grids import save_image
from nelbo.samplers import Sampler

BATCH = 20
PARTS = ("person", "profession", "skin tone")


class Retrieval(NamedTuple):
    """Ranks of the right one among the candidates, (N,), and which came first, (N,)."""

    by_name: Tensor
    by_picture: Tensor
    first_name: Tensor


@torch.no_grad()
def generate(
    model: nelbo.LatentDiffusion,
    prompts: list[str],
    sampler: Sampler,
    guidance: float,
    seed: int,
) -> Tensor:
    """One image a prompt with noise of its own, pixel levels 0..255, (N, 3, 32, 32) uint8."""
    images = []
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        generators = [generator_for(seed, start + i) for i in range(len(some))]
        x = model.sample(len(some), sampler, prompt=some, guidance=guidance, generator=generators)
        images.append(at_scorer_size(model.data.to_levels(x)))
    return torch.cat(images)


@torch.no_grad()
def reconstruct(model: nelbo.LatentDiffusion, images: Tensor) -> Tensor:
    """The images after encoding and decoding, (N, 3, 32, 32) uint8."""
    size = model.shape[1:]
    parts = []
    for batch in images.split(BATCH):
        x = model.data.to_network(batch)
        if tuple(x.shape[2:]) != tuple(size):
            x = F.interpolate(x, tuple(size), mode="nearest")
        parts.append(at_scorer_size(model.data.to_levels(model.decode(model.encode(x).mean))))
    return torch.cat(parts)


def at_scorer_size(levels: Tensor) -> Tensor:
    """Larger images averaged to 32×32."""
    return F.interpolate(levels.float(), (SIZE, SIZE), mode="area").round().to(torch.uint8)


@torch.no_grad()
def retrieve(scorer: Scorer, names: Names, images: Tensor, right: Tensor) -> Retrieval:
    """Where the right name and picture come among the candidates, for each image."""
    vectors = scorer.images(to_network(images))
    of_names = vectors @ scorer.names(scorer.tokens(names.captions)).T
    of_pictures = vectors @ scorer.images(to_network(names.images)).T
    return Retrieval(ranks(of_names, right), ranks(of_pictures, right), of_names.argmax(1))


def shares(found: Retrieval, some: Tensor | slice = slice(None)) -> dict[str, Share]:
    """Top-1 and top-5 by name and by picture."""
    return {
        f"{kind}_top{k}": within(getattr(found, kind)[some], k)
        for kind in ("by_name", "by_picture")
        for k in (1, 5)
    }


def right_parts(names: Names, found: Retrieval) -> dict[str, float]:
    """How often the name that came first has the person, the profession, the tone of the prompt."""
    pairs = [
        (names.combinations[right], names.combinations[first])
        for right, first in zip(names.unseen.tolist(), found.first_name.tolist(), strict=True)
    ]
    return {
        part: sum(first is not None and first[i] == right[i] for right, first in pairs if right)
        / len(pairs)
        for i, part in enumerate(PARTS)
    }


def alignment_grid(names: Names, which: Tensor, images: Tensor, found: Retrieval) -> Image.Image:
    """Each real picture beside the generated one, with ranks by name and picture and the prompt."""
    captions = [
        f"{by_name} | {by_picture} | {names.captions[i]}"
        for i, by_name, by_picture in zip(
            which.tolist(), found.by_name.tolist(), found.by_picture.tolist(), strict=True
        )
    ]
    return prompt_grid(torch.cat([names.images[which], images], dim=3), captions)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "run",
        nargs="?",
        default="emoji",
        help="a latent model of the emoji with text (default: the one that ships)",
    )
    parser.add_argument("--guidance", type=float, help="default: that of the run's own samples")
    parser.add_argument("--steps", type=int, default=25, help="of the run's own sampler")
    parser.add_argument("--seed", type=int, default=0, help="of the noise that images start from")
    parser.add_argument("--cache", type=Path, default=Path("runs"), help="keeps the scorer here")
    parser.add_argument("--scorer-steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--grid",
        type=Path,
        help="draw the prompts: alignment.png writes alignment-seen.png and alignment-unseen.png",
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = nelbo.load(arguments.run)
    if not isinstance(model, nelbo.LatentDiffusion) or model.text is None:
        parser.error(f"{arguments.run} is not a latent model with text")
    sampler = nelbo.load_sampler(arguments.run, arguments.steps)
    guidance = arguments.guidance
    if guidance is None:
        guidance = read_own(resolve(arguments.run))["settings"]["model"]["guidance"]
    names = choose_names()
    start = time.perf_counter()
    scorer = load_scorer(
        load_data("emoji", "train", size=SIZE), arguments.cache, arguments.scorer_steps
    )
    trained = time.perf_counter()
    pictures, found = {}, {}
    for kind, which in (("seen", names.seen), ("unseen", names.unseen)):
        prompts = [names.captions[i] for i in which.tolist()]
        pictures[kind] = {
            "real": names.images[which],
            "reconstructed": reconstruct(model, names.images[which]),
            "generated": generate(model, prompts, sampler, guidance, arguments.seed),
        }
        for source, images in pictures[kind].items():
            found[kind, source] = retrieve(scorer, names, images, which)
    done = time.perf_counter()

    n = len(names.captions)
    results: dict = {"chance": {"top1": 1 / n, "top5": 5 / n}, "shares": []}
    table = Table(
        title=f"right among {n:,} names; chance {1 / n:.1%} first, {5 / n:.1%} among five"
    )
    for column in (
        "prompts",
        "images",
        "by name: first",
        "among five",
        "by picture: first",
        "five",
    ):
        table.add_column(column, justify="left" if column in ("prompts", "images") else "right")
    subsets = {
        f"seen ({len(names.seen)})": ("seen", slice(None)),
        f"unseen ({len(names.unseen)})": ("unseen", slice(None)),
        f"… picture too ({int(names.new_picture.sum())})": ("unseen", names.new_picture),
    }
    for title, (kind, some) in subsets.items():
        for source in pictures[kind]:
            measured = shares(found[kind, source], some)
            table.add_row(title, source, *map(str, measured.values()))
            results["shares"].append(
                {"prompts": title, "images": source}
                | {name: share._asdict() for name, share in measured.items()}
            )
        table.add_section()
    console = Console(width=150)
    console.print(table)
    parts = right_parts(names, found["unseen", "generated"])
    results["parts"] = parts
    rates = ", ".join(f"{part} {share:.0%}" for part, share in parts.items())
    console.print(f"unseen, generated: the first name has the right {rates}")
    console.print(
        f"guidance {guidance:g}, {arguments.steps} steps of {type(sampler).__name__}; "
        f"scorer {trained - start:.0f} s, images and ranks {done - trained:.0f} s"
    )
    if arguments.grid:
        for kind, which in (("seen", names.seen), ("unseen", names.unseen)):
            generated = pictures[kind]["generated"]
            grid = alignment_grid(names, which, generated, found[kind, "generated"])
            save_image(grid, arguments.grid.with_stem(f"{arguments.grid.stem}-{kind}"))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
