"""Suffixes of picture files, and the packages that read them.

Pillow reads most; HEIC needs pillow-heif (extra `heic`), SVG resvg-py (extra `emoji`), and AVIF a
Pillow that was built with it, as those of PyPI are from 11.3 on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import PurePath

from PIL import Image, features

PLAIN = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".jp2", ".j2k", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
)
HEIF = (".heic", ".heif", ".hif")
AVIF = (".avif",)
VECTOR = (".svg", ".svgz")
# Pillow's names of these formats. Formats that start other programs, such as EPS, are left out.
FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "TGA", "PPM"),
    *("AVIF", "HEIF"),
)
_REMEDIES = {
    HEIF: "pip install 'nelbo[heic]'",
    AVIF: "pip install 'Pillow>=11.3'",
    VECTOR: "pip install 'nelbo[emoji]'",
}


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of pictures that are readable in this installation, in lower case."""
    heif = HEIF if _registers_heif() else ()
    avif = AVIF if features.check("avif") else ()
    vector = VECTOR if find_spec("resvg_py") is not None else ()
    return frozenset((*PLAIN, *heif, *avif, *vector))


@cache
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that Pillow knows here."""
    suffixes()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def suffix_of(name: str) -> str:
    """The suffix of a name in lower case; "" without one."""
    return PurePath(name).suffix.lower()


def is_picture(name: str) -> bool:
    """Whether a file of this name is a picture that can be read here."""
    return suffix_of(name) in suffixes()


def remedy(suffix: str) -> str | None:
    """The package to install to read pictures of this kind; None for an unknown kind."""
    missing = (way for kinds, way in _REMEDIES.items() if suffix in kinds)
    return None if suffix in suffixes() else next(missing, None)


def count_kinds(kinds: Iterable[str]) -> str:
    """The number of files of each kind, most frequent first, with the package that reads them.

    Args:
        kinds: the end of the name of each, as `suffix_of` has it.
    """
    counts = sorted(Counter(kinds).items(), key=lambda kind: (-kind[1], kind[0]))
    return ", ".join(
        f"{kind or 'without a suffix'} {count:,}" + (f" ({way})" if (way := remedy(kind)) else "")
        for kind, count in counts
    )


@cache
def _registers_heif() -> bool:
    """Register HEIC with Pillow, if the library is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True
