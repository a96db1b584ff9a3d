"""Vector drawings of emoji in five styles, from packages that npm downloads by name.

openmoji   OpenMoji in colour, CC BY-SA 4.0 (npm openmoji)
outline    OpenMoji's outlines, CC BY-SA 4.0 (the same package)
twemoji    Twemoji by Twitter and contributors, CC BY 4.0 (npm @twemoji/svg)
noto       Noto Emoji by Google, Apache 2.0 (npm @iconify-json/noto)
fluent     Fluent Emoji, flat, by Microsoft, MIT (npm @iconify-json/fluent-emoji-flat)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from folders import Packages

OPENMOJI, OUTLINE, TWEMOJI, NOTO, FLUENT = "openmoji", "outline", "twemoji", "noto", "fluent"
STYLES = (OPENMOJI, OUTLINE, TWEMOJI, NOTO, FLUENT)
CREDITS = {
    "openmoji, outline": "OpenMoji (https://openmoji.org), CC BY-SA 4.0",
    "twemoji": "Twemoji, Twitter, Inc and other contributors, CC BY 4.0",
    "noto": "Noto Emoji, Google LLC, Apache License 2.0",
    "fluent": "Fluent Emoji, Microsoft Corporation, MIT License",
}
SIDE = 100  # of what `page` makes
_PACKAGES = {
    OPENMOJI: ("openmoji@17.0.0", "package/color/svg/"),
    OUTLINE: ("openmoji@17.0.0", "package/black/svg/"),
    TWEMOJI: ("@twemoji/svg@15.0.0", "package/"),
    NOTO: ("@iconify-json/noto@1.2.9", "package/"),
    FLUENT: ("@iconify-json/fluent-emoji-flat@1.2.6", "package/"),
}
_FILE = re.compile(r"<svg[^>]*viewBox=\"([^\"]+)\"[^>]*>(.*)</svg>", re.DOTALL)
_ID = re.compile(r'(\bid="|url\(#|href="#)')


@dataclass(frozen=True)
class Drawing:
    """What is inside of an SVG, and its viewBox."""

    box: str
    body: str

    def at(self, x: float, y: float, side: float, mark: str = "") -> str:
        """The element that draws it in a square; `mark` keeps its ids apart from another's."""
        body = _ID.sub(rf"\g<1>{mark}", self.body) if mark else self.body
        place = f'x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}"'
        return f'<svg {place} viewBox="{self.box}">{body}</svg>'

    def with_body(self, body: str) -> Drawing:
        return replace(self, body=body)


def page(*elements: str) -> str:
    """An SVG file of these elements."""
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="0 0 {SIDE} {SIDE}">{"".join(elements)}</svg>\n'


def drawings(style: str, packages: Packages) -> dict[str, Drawing]:
    """Code points without variation selectors, as 1f469-200d-1f692 → the drawing."""
    package, folder = _PACKAGES[style]
    files = packages.open("npm", package)
    read = _icons if f"{folder}icons.json" in files else _files
    return {plain(code): drawing for code, drawing in read(files, folder)}


def plain(code: str) -> str:
    """Code points in small letters, without the selector of emoji presentation.

    One style names its files with it, the other without.
    """
    return "-".join(point for point in code.lower().split("-") if point != "fe0f")


def _files(files: dict, folder: str) -> Iterator[tuple[str, Drawing]]:
    for name, read in files.items():
        if name.startswith(folder) and name.endswith(".svg"):
            found = _FILE.search(read().decode())
            if found:
                yield PurePosixPath(name).stem, Drawing(*found.groups())


def _icons(files: dict, folder: str) -> Iterator[tuple[str, Drawing]]:
    """The icons of a collection in the format of Iconify."""
    collection = json.loads(files[f"{folder}icons.json"]())
    names = json.loads(files[f"{folder}chars.json"]())
    for code, name in names.items():
        icon = collection["icons"].get(name)
        if icon is not None:
            width, height = (
                icon.get(side, collection.get(side, 16)) for side in ("width", "height")
            )
            yield code, Drawing(f"0 0 {width} {height}", icon["body"])
