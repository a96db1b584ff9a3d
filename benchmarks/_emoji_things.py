"""The emoji as things, with what they are drawn like, and what of them is held out.

The name of a pair alone decides whether it is: the share of `nelbo.data.splits`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from _emoji_drawings import OPENMOJI, OUTLINE, STYLES, Drawing, drawings, plain
from _recolour import COLOURS, Dominant, dominant, nearest
from folders import Packages

from nelbo.data import load_data
from nelbo.data.splits import TEST, TRAIN, VALIDATION, share

FLAGS = "Flags"
COLOURED = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
# The shares that are for test; half of each is for validation.
OF_COLOURS, OF_STYLES, OF_PAIRS = 0.1, 0.05, 0.1
# Names that hold other colours, or more than a thing.
UNCLEAR = re.compile(r"\b(white|golden|silver)\b|[:\d]")
BESIDE = " + "  # between the things of a pair, in the metadata


@dataclass(frozen=True)
class Thing:
    """An emoji in its styles.

    Attributes:
        code: its code points.
        name: its name in Unicode.
        group: its group in Unicode.
        thing: the name without the colour.
        colour: the colour in the name; "" without.
        split: whether the name is held out.
        drawings: by style, of those that the thing is drawn in.
        dominant: what to replace for another colour, by style.
    """

    code: str
    name: str
    group: str
    thing: str
    colour: str
    split: str
    drawings: dict[str, Drawing]
    dominant: dict[str, Dominant] = field(default_factory=dict)


def list_things(packages: Packages) -> list[Thing]:
    """All emoji with a name, in the order of their code points."""
    of_style = {style: drawings(style, packages) for style in STYLES}
    things = []
    for split in (TRAIN, VALIDATION, TEST):
        data = load_data("emoji", split, size=32)
        assert data.captions is not None
        assert data.labels is not None
        groups = [data.label_names[label] for label in data.labels.tolist()]
        for code, name, group in zip(map(plain, data.names), data.captions, groups, strict=True):
            if name is None:
                continue
            colour, thing = split_name(name)
            # The outlines of all flags are one picture, and those of a heart have no colour.
            left_out = {OUTLINE} if colour or group == FLAGS else set()
            if "skin tone" in name:
                left_out = {*STYLES} - {OPENMOJI}
            own = {
                style: of[code]
                for style, of in of_style.items()
                if code in of and style not in left_out
            }
            kinds = _dominant(name, own) if group in COLOURED else {}
            things.append(Thing(code, name, group, thing, colour, split, own, kinds))
    return sorted(things, key=lambda thing: thing.code)


def _dominant(name: str, own: dict[str, Drawing]) -> dict[str, Dominant]:
    """What is recoloured, by style; nothing of a thing with fewer than two such styles."""
    if UNCLEAR.search(name):
        return {}
    found = {style: dominant(one) for style, one in own.items() if style != OUTLINE}
    kinds = {style: kind for style, kind in found.items() if kind is not None}
    return kinds if len(kinds) > 1 else {}


def split_name(name: str) -> tuple[str, str]:
    """The colour in a name, "" without, and the name without it."""
    first, _, rest = name.partition(" ")
    return (first, rest) if first in COLOURS and rest else ("", name)


def split_of(what: str, held_out: float) -> str:
    """The split of a pair, by its name."""
    place = share(what)
    return TEST if place < held_out else VALIDATION if place < 1.5 * held_out else TRAIN


def split_of_style(thing: Thing, style: str) -> str:
    """Of people in skin tones there is one style only, which stays."""
    return split_of(f"{thing.thing}, {style}", OF_STYLES) if len(thing.drawings) > 1 else TRAIN


def recolourable(things: list[Thing]) -> list[Thing]:
    """Those with a dominant colour, one for each name without its colour."""
    return [*{thing.thing: thing for thing in reversed(things) if thing.dominant}.values()][::-1]


def colours_of(thing: Thing, things: list[Thing]) -> dict[str, str]:
    """The colours to draw a thing in, with their splits.

    Not those that a name of Unicode's has. The colours that its drawings have anyway are for
    training, as the name alone shows them.
    """
    named = {other.colour for other in things if other.thing == thing.thing}
    own = {nearest(kind) for kind in thing.dominant.values()}
    return {
        colour: TRAIN if colour in own else split_of(f"{colour} {thing.thing}", OF_COLOURS)
        for colour in COLOURS
        if colour not in named
    }


def pair_of(both: list[Thing]) -> str:
    """Its name, whichever stands at the left."""
    return BESIDE.join(sorted(one.thing for one in both))


def held_out(things: list[Thing], pairs: dict[str, list[str]]) -> dict[str, dict[str, list]]:
    """What no training picture shows, by split and kind."""
    trained = [thing for thing in things if thing.split == TRAIN]
    found: dict[str, dict[str, list]] = {}
    for split, of_split in pairs.items():
        found[split] = {
            "names": [thing.name for thing in things if thing.split == split],
            "colours": [
                [thing.thing, colour]
                for thing in recolourable(trained)
                for colour, of in colours_of(thing, trained).items()
                if of == split
            ],
            "styles": [
                [thing.thing, style]
                for thing in trained
                for style in thing.drawings
                if split_of_style(thing, style) == split
            ],
            "pairs": sorted(set(of_split)),
        }
    return found
