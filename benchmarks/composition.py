"""Does a model draw what it was never shown together? Colours, styles, pairs; and is it more than a
memory of its pictures?

    python benchmarks/composed_emoji.py FOLDER
    python benchmarks/composition.py RUN [--data FOLDER] [--split test] [--guidance 2] [--grid FILE]

RUN is a latent model with text, or the name of a checkpoint that ships. FOLDER holds pairs of thing
and colour, thing and style, thing and thing that no training picture shows. Asked for are

colours   "purple apple": the right thing among all, the right colour among ten, and both
styles    "apple, noto": the right thing, the right style among five, and both
pairs     "red apple and blue car": the right thing in each half, and both
names     "apple", as in training: the right name first among 1,000

as far as FOLDER has these kinds, each by scorers that are trained here on real training pictures
only (`_composed_things.py`). In the same table are the real pictures of what is asked, which the
scorers were not trained on either except for names, and these after the run's autoencoder. Then

variety   the mean distance of the pictures of eight seeds of one name, as a share of that of the
          real pictures of the name in several styles: mean absolute difference of values in −1..1
copies    the share of pictures that are nearer to a training picture than that one is to its
          nearest neighbour among training pictures of other things

`emoji_bits.py RUN --no-pixel` has the bits per dimension of the held-out names, and
`text_alignment.py RUN` the names of OpenMoji. Choose settings by --split validation.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _composed_things import (
    Composed,
    Scorers,
    halves,
    kinds_of,
    load_composed,
    load_scorers,
    one_each,
    whole,
)
from _emoji_things import BESIDE
from _retrieval import Share, ranks, wilson, within
from rich.console import Console
from rich.table import Table
from text_alignment import generate, reconstruct
from torch import Tensor

import nelbo
from nelbo.chain.estimate import Estimate
from nelbo.formats.files import read_own
from nelbo.formats.model_directory import resolve
from nelbo.report.captions import prompt_grid
from nelbo.report.grids import save_image

ASKED = {"colour": 200, "style": 80, "pair": 80}
MEASURES = (*ASKED, "name", "variety")
CANDIDATES, ASKED_NAMES = 1000, 200
VARIED, SEEDS = 24, 8  # names, and pictures of each
Draw = Callable[..., Tensor]
_CHUNK = 64


def answers(scorers: Scorers, kind: str, images: Tensor, asked: Composed) -> dict[str, Tensor]:
    """Whether each part of what was asked for is right, (N,) bool, by part; "both" at the end."""
    things = [one["thing"].split(BESIDE) for one in asked.facts]
    if kind == "pair":
        parts = {
            side: scorers.right(half, "thing", [one[i] for one in things])
            for i, (side, half) in enumerate(zip(("left", "right"), halves(images), strict=True))
        }
    else:
        parts = {
            "thing": scorers.right(images, "thing", [one for (one,) in things]),
            kind: scorers.right(images, kind, [one[kind] for one in asked.facts]),
        }
    return parts | {"both": torch.stack([*parts.values()]).all(0)}


def measurable(train: Composed, held_out: Composed) -> list[str]:
    """Which of the measures the folder has the pictures for.

    Things are scored in any; a colour or style by scorers of training pictures of that kind.
    """
    trained, asked = kinds_of(train), kinds_of(held_out)
    needs = {
        "colour": {"colour"} <= trained & asked,
        "style": {"style"} <= trained & asked,
        "pair": bool(trained - {"pair"}) and "pair" in asked,
        "name": "name" in trained,
        "variety": "name" in trained,
    }
    return [measure for measure in MEASURES if needs[measure]]


def prompt_of(kind: str, one: dict[str, str]) -> str:
    """The prompt; a colour is asked for in any style."""
    return f"{one['colour']} {one['thing']}" if kind == "colour" else one["text"]


def questions(some: Composed, kind: str, most: int, seed: int) -> Composed:
    """What is asked of a kind: one picture of each pair, at full size but for two things."""
    fields = {"colour": ("thing", "colour"), "style": ("thing", "style"), "pair": ("thing",)}
    of_kind = some.where(lambda one: one["kind"] == kind and (kind == "pair" or whole(one)))
    return one_each(of_kind, fields[kind], min(most, ASKED[kind]), seed)


def candidates(train: Composed, seed: int) -> list[str]:
    """1,000 names without a colour, none of which shares a picture with another."""
    plain = train.where(lambda one: one["kind"] == "name" and not one["colour"] and whole(one))
    pictures: dict[str, set[bytes]] = {}
    for image, one in zip(plain.data.images, plain.facts, strict=True):
        pictures.setdefault(one["text"], set()).add(image.numpy().tobytes())
    chosen, seen = [], set[bytes]()
    order = sorted(pictures)
    for name in random.Random(seed).sample(order, len(order)):
        if not pictures[name] & seen and len(chosen) < CANDIDATES:
            chosen.append(name)
            seen |= pictures[name]
    return chosen


def spread(images: Tensor) -> float:
    """The mean distance of two of the pictures, in mean absolute value of [−1, 1]."""
    x = images.double().flatten(1) / 127.5
    distances = torch.cdist(x, x, p=1) / x.shape[1]
    return float(distances.sum() / (len(x) * (len(x) - 1)))


def ratio(of: list[float], to: list[float]) -> Estimate:
    """The ratio of two means over the same names, with its standard error by the delta method."""
    a, b = (torch.tensor(some, dtype=torch.float64) for some in (of, to))
    mean = float(a.mean() / b.mean())
    error = float((a - mean * b).std() / (math.sqrt(len(a)) * b.mean()))
    return Estimate(mean, error)


def copied(images: Tensor, train: Composed) -> Tensor:
    """Whether each is nearer to a training picture than that is to those of other things, (N,)."""
    real = train.data.images.float().flatten(1) / 127.5
    things = {thing: i for i, thing in enumerate({one["thing"] for one in train.facts})}
    of = torch.tensor([things[one["thing"]] for one in train.facts])
    parts = []
    for some in (images.float().flatten(1) / 127.5).split(_CHUNK):
        distance, nearest = torch.cdist(some, real).min(1)
        apart = torch.cdist(real[nearest], real)
        apart[of[nearest][:, None] == of] = math.inf
        parts.append(distance < apart.min(1).values)
    return torch.cat(parts)


def varied(draw: Draw, train: Composed, most: int, seed: int) -> tuple[Estimate, float, float]:
    """The spread over seeds as a share of that over styles, and the two means."""
    names = candidates(train, seed)
    of_name: dict[str, list[int]] = {name: [] for name in names}
    for i, one in enumerate(train.facts):
        if one["kind"] == "name" and one["text"] in of_name:
            of_name[one["text"]].append(i)
    several = [name for name in names if len(of_name[name]) > 2][: min(most, VARIED)]
    real = [spread(train.data.images[torch.tensor(of_name[name])]) for name in several]
    images = torch.stack([draw(several, seed + 1 + k) for k in range(SEEDS)], 1)
    own = [spread(some) for some in images]
    return ratio(own, real), sum(own) / len(own), sum(real) / len(real)


def table_of(title: str, rows: list[tuple[str, str, dict[str, Share]]]) -> Table:
    table = Table(title=title)
    for column in ("asked", "pictures", "thing, or left", "colour, style or right", "both"):
        table.add_column(column)
    for kind, source, shares in rows:
        table.add_row(kind, source, *map(str, shares.values()))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=" ".join((__doc__ or "").split("\n")[:2]))
    parser.add_argument("run", nargs="?", default="emoji", help="default: the one that ships")
    parser.add_argument("--data", type=Path, default=Path("runs/composed-emoji"))
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--only", nargs="*", choices=MEASURES, help="default: all that can be")
    parser.add_argument("--most", type=int, default=200, help="prompts of a kind")
    parser.add_argument("--names", type=int, help="names to ask for, of 1,000 (default: as --most)")
    parser.add_argument("--guidance", type=float, help="default: that of the run's own samples")
    parser.add_argument("--steps", type=int, default=25, help="of the run's own sampler")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("runs"), help="keeps the scorers here")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--grid", type=Path, help="draw what was asked for, a file for each kind")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = nelbo.load(arguments.run)
    if not isinstance(model, nelbo.LatentDiffusion) or model.text is None:
        parser.error(f"{arguments.run} is not a latent model with text")
    guidance = arguments.guidance
    if guidance is None:
        guidance = read_own(resolve(arguments.run))["settings"]["model"]["guidance"]
    sampler = nelbo.load_sampler(arguments.run, arguments.steps)

    def draw(prompts: list[str], seed: int = arguments.seed) -> Tensor:
        return generate(model, prompts, sampler, guidance, seed)

    train = load_composed(arguments.data, "train")
    held_out = load_composed(arguments.data, arguments.split).without(train)
    can = measurable(train, held_out)
    only = can if arguments.only is None else arguments.only
    if missing := [measure for measure in only if measure not in can]:
        parser.error(
            f"{arguments.data} has no pictures to measure {', '.join(missing)} by, only for "
            f"{', '.join(can) or 'nothing'}: make it with all --kinds of composed_emoji.py"
        )
    if not only:
        parser.error(f"{arguments.data} has no pictures of kinds that can be measured")
    scorers = load_scorers(train, arguments.cache)
    console, rows, drawn = Console(width=150), [], []
    if left_out := [measure for measure in MEASURES if measure not in can]:
        console.print(f"{arguments.data} has no pictures to measure {', '.join(left_out)} by")
    results: dict[str, Any] = {"guidance": guidance, "split": arguments.split}
    for kind in (kind for kind in ASKED if kind in only):
        asked = questions(held_out, kind, arguments.most, arguments.seed)
        prompts = [prompt_of(kind, one) for one in asked.facts]
        real, generated = asked.data.images, draw(prompts)
        sources = {"real": real, "reconstructed": reconstruct(model, real), "generated": generated}
        for source, images in sources.items():
            parts = answers(scorers, kind, images, asked)
            shares = {part: wilson(int(ok.sum()), len(ok)) for part, ok in parts.items()}
            rows.append((f"{kind} ({len(prompts)})", source, shares))
            results[f"{kind}, {source}"] = {k: share._asdict() for k, share in shares.items()}
        if kind != "pair":
            drawn.append(generated)
        if arguments.grid:
            beside = prompt_grid(torch.cat([real, generated], dim=3), prompts)
            save_image(beside, arguments.grid.with_stem(f"{arguments.grid.stem}-{kind}"))
    things = len(scorers.answers["thing"])
    title = f"right of what was never together ({arguments.split}), among {things:,} things"
    console.print(table_of(title, rows))
    if "name" in only:
        names = candidates(train, arguments.seed)
        asked = names[: arguments.names or min(arguments.most, ASKED_NAMES)]
        drawn.append(draw(asked))
        places = ranks(scorers.scores(drawn[-1], "thing", names), torch.arange(len(asked)))
        first, five = within(places, 1), within(places, 5)
        results["name"] = {"first": first._asdict(), "among five": five._asdict()}
        console.print(f"names as in training, first of {len(names):,}: {first}; of five {five}")
    if drawn:
        near = copied(torch.cat(drawn), train.where(whole))
        results["copies"] = wilson(int(near.sum()), len(near))._asdict()
        console.print(f"copies: {wilson(int(near.sum()), len(near))}")
    if "variety" in only:
        share, own, real = varied(draw, train, arguments.most, arguments.seed)
        results["variety"] = {"share": share.mean, "error": share.standard_error}
        console.print(
            f"variety: {share.mean:.2f} ± {share.standard_error:.2f} of that of real pictures "
            f"({own:.3f} of {real:.3f}; {SEEDS} seeds a name)"
        )
    console.print(f"guidance {guidance:g}, {arguments.steps} steps of {type(sampler).__name__}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
