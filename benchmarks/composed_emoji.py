"""A folder of emoji to compose from: five styles, colours, sizes, places and pairs, as SVG files.

    python benchmarks/composed_emoji.py [OUT] [--kinds name style] [--recoloured 0.15] [--emoji 2]
    nelbo train OUT --start-from emoji --train-text-encoder --out RUN

OUT is runs/composed-emoji by default. Its pictures are drawn from packages that npm downloads by
name (`_emoji_drawings.py` lists them with their licences, OUT/CREDITS.md repeats them), with
captions in OUT/metadata.jsonl:

name      "apple": the drawing as it is, in any style but outline
style     "apple, noto" or "small apple at the top left, outline"
colour    "purple apple" or "small purple apple at the right, twemoji": recoloured in the vector
          file (`_recolour.py`), where one colour covers most of the drawing
pair      "red apple and blue car, noto": one at the left, one at the right

`--emoji 2` adds the pictures of nelbo's own data `emoji`, without captions, each of those for
training twice: for an autoencoder, which is to code these best.

A word of colour in a name of Unicode's counts as its colour: "green apple" is the thing apple in
green. People in skin tones are there in OpenMoji's style only.

Held out, in every style, size and place: the names that nelbo's own data `emoji` holds out; a tenth
of the pairs (thing, colour), a twentieth of the pairs (thing, style), and a tenth of the pairs of
things. They are the pictures of OUT/test; half as many again are those of OUT/validation. OUT's
neighbour OUT-held-out.json lists them. What is made is the same each time.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from _emoji_drawings import CREDITS, OUTLINE, SIDE, STYLES, Drawing, page
from _emoji_things import (
    BESIDE,
    COLOURED,
    OF_PAIRS,
    Thing,
    colours_of,
    held_out,
    list_things,
    pair_of,
    recolourable,
    split_of,
    split_of_style,
)
from _recolour import recoloured
from folders import Packages, make_anew

from nelbo.data import load_data
from nelbo.data.splits import TEST, TRAIN, VALIDATION, share
from nelbo.report.grids import save_image, to_pil

KINDS = ("name", "style", "colour", "pair")
# The share of recolourings for training that are drawn, unless another is asked for; of pictures
# that are small, at a place.
DRAWN, PLACED = 0.5, 0.2
PAIRS = {TRAIN: 3000, VALIDATION: 150, TEST: 300}
SMALL = 0.5
PLACES = {
    "": (0.5, 0.5),
    "at the left": (0, 0.5),
    "at the right": (1, 0.5),
    "at the top": (0.5, 0),
    "at the bottom": (0.5, 1),
    "at the top left": (0, 0),
    "at the top right": (1, 0),
    "at the bottom left": (0, 1),
    "at the bottom right": (1, 1),
}


@dataclass(frozen=True)
class Picture:
    """A picture with its caption, and of what it is."""

    split: str
    file_name: str
    text: str
    kind: str
    thing: str
    style: str
    colour: str
    svg: str


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/composed-emoji"))
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS, help="default: all")
    parser.add_argument(
        "--recoloured", type=float, default=DRAWN, help="share of recolourings to train on"
    )
    parser.add_argument(
        "--emoji", type=int, default=0, metavar="TIMES", help="add the data emoji (default: 0)"
    )
    arguments = parser.parse_args()
    out: Path = arguments.out
    things = list_things(Packages(out.with_name(".packages")))
    make_anew(out)
    counts: dict[tuple[str, str], int] = {}
    pairs: dict[str, list[str]] = {VALIDATION: [], TEST: []}
    with (out / "metadata.jsonl").open("w") as metadata:
        for picture in pictures(things, arguments.recoloured):
            if picture.kind not in arguments.kinds:
                continue
            facts = asdict(picture)
            path = out / picture.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(facts.pop("svg"))
            metadata.write(json.dumps(facts) + "\n")
            key = picture.kind, picture.split
            if picture.kind == "pair" and picture.split in pairs:
                pairs[picture.split].append(picture.thing)
            counts[key] = counts.get(key, 0) + 1
    if arguments.emoji:
        add_emoji(out, arguments.emoji)
    (out / "CREDITS.md").write_text("".join(f"- {k}: {v}\n" for k, v in CREDITS.items()))
    kept = json.dumps(held_out(things, pairs), indent=1, ensure_ascii=False)
    out.with_name(f"{out.name}-held-out.json").write_text(kept + "\n")
    for (kind, split), count in sorted(counts.items()):
        print(f"{kind}, {split}: {count:,} pictures")


def add_emoji(out: Path, times: int) -> None:
    """The pictures of the data `emoji`, each of those for training a number of times."""
    for split, copies in ((TRAIN, times), (VALIDATION, 1)):
        folder = out / split / "emoji"
        folder.mkdir()
        for i, image in enumerate(load_data("emoji", split, size=32).images):
            for copy in range(copies):
                save_image(to_pil(image), folder / f"{i}-{copy}.png")


def pictures(things: list[Thing], drawn: float = DRAWN) -> Iterator[Picture]:
    """All pictures, in a fixed order, with a share of the recolourings for training."""
    trained = [thing for thing in things if thing.split == TRAIN]
    for thing in things:
        yield from _of_name(thing)
    for thing in trained:
        if len(thing.drawings) > 1:
            yield from _of_styles(thing)
    for thing in recolourable(trained):
        yield from _of_colours(thing, trained, drawn)
    yield from _of_pairs([thing for thing in trained if thing.group in COLOURED])


def _of_name(thing: Thing) -> Iterator[Picture]:
    for style, drawing in thing.drawings.items():
        if style != OUTLINE and split_of_style(thing, style) == TRAIN:
            name = f"{thing.split}/name/{thing.code}-{style}.svg"
            svg = page(drawing.at(0, 0, SIDE))
            yield Picture(
                thing.split, name, thing.name, "name", thing.thing, style, thing.colour, svg
            )


def _of_styles(thing: Thing) -> Iterator[Picture]:
    for style, drawing in thing.drawings.items():
        split = split_of_style(thing, style)
        name = f"{split}/style/{thing.code}-{style}.svg"
        text, svg = _placed(thing.name, drawing, name)
        yield Picture(
            split, name, f"{text}, {style}", "style", thing.thing, style, thing.colour, svg
        )


def _of_colours(thing: Thing, things: list[Thing], drawn: float) -> Iterator[Picture]:
    for colour, split in colours_of(thing, things).items():
        for style, kind in thing.dominant.items():
            name = f"{split}/colour/{thing.code}-{colour}-{style}.svg"
            if split_of_style(thing, style) != TRAIN or (split == TRAIN and share(name) > drawn):
                continue
            drawing = recoloured(thing.drawings[style], kind, colour)
            text, svg = _placed(f"{colour} {thing.thing}", drawing, name)
            if share(f"style of {name}") < 0.5:
                text = f"{text}, {style}"
            yield Picture(split, name, text, "colour", thing.thing, style, colour, svg)


def _of_pairs(things: list[Thing]) -> Iterator[Picture]:
    """Two things side by side, half of those that can be in another colour."""
    draws = random.Random("pairs")
    left = dict(PAIRS)
    while any(left.values()):
        style = draws.choice(STYLES)
        both = draws.sample(things, 2)
        if any(style not in one.drawings or split_of_style(one, style) != TRAIN for one in both):
            continue
        names, elements = [], []
        for i, one in enumerate(both):
            text, drawing = one.name, one.drawings[style]
            if style in one.dominant and draws.random() < 0.5:
                free = [c for c, s in colours_of(one, things).items() if s == TRAIN]
                colour = draws.choice(free)
                text = f"{colour} {one.thing}"
                drawing = recoloured(drawing, one.dominant[style], colour)
            names.append(text)
            elements.append(drawing.at(i * SIDE / 2, SIDE / 4, SIDE / 2, "ab"[i]))
        split = split_of(pair_of(both), OF_PAIRS)
        if not left[split]:
            continue
        left[split] -= 1
        text = " and ".join(names) + (f", {style}" if draws.random() < 0.5 else "")
        name = f"{split}/pair/{'+'.join(one.code for one in both)}-{style}-{left[split]}.svg"
        thing = BESIDE.join(one.thing for one in both)
        yield Picture(split, name, text, "pair", thing, style, "", page(*elements))


def _placed(text: str, drawing: Drawing, seed: str) -> tuple[str, str]:
    """The caption and the picture, of a share of all small and at one of the places."""
    if share(f"place of {seed}") >= PLACED:
        return text, page(drawing.at(0, 0, SIDE))
    place, (x, y) = random.Random(seed).choice([*PLACES.items()])
    free = SIDE * (1 - SMALL)
    return f"small {text} {place}".rstrip(), page(drawing.at(x * free, y * free, SMALL * SIDE))


if __name__ == "__main__":
    main()
