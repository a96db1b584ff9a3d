"""One reader of pictures, for folders, tables, pictures to edit and masks.

Every format becomes an upright picture with 8 bits a channel, grey ("L") or in colour ("RGB"):

    16 bits a pixel         the upper 8 bits
    whole numbers of 32     as 8 or 16 bits, by the largest
    numbers with fractions  0..1, 0..255 or 0..65535, by the largest; others are refused
    transparency            on white; for a mask, on black; for a drawing in light lines, on black
    CMYK, LAB, palettes     RGB
    EXIF, XMP               rotated accordingly; with a note and unrotated if malformed
    several frames          the first, with a note
    SVG                     rendered at the requested size
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from xml.parsers.expat import ExpatError, ParserCreate

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from nelbo.data.formats import VECTOR, formats, suffix_of

_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
GREY_MODES = ("1", "L", "LA", "La", *_SIXTEEN_BITS, "I", "F")
# Pillow's names of grey pixels of 2 and 4 bits, with their highest level.
_FEW_BITS = {"L;2": 3, "L;4": 15}
WHITE, CONTRAST = "white", "contrast"
# Levels from which on a colour is lost on white.
_LIGHT = 128
MALFORMED_EXIF = "malformed EXIF: not turned"
FIRST_FRAME = "several frames: the first is taken"
# A drawing is at most this many times longer than the picture that is cropped from it.
_LONGEST_DRAWING = 64
# Bytes to recognise a drawing by; the largest text of one, unpacked; its deepest nesting.
_HEAD, _LONGEST_TEXT, _DEEPEST = 1024, 1 << 26, 200
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
# What a path itself is wrong for; it changes with the path, its permissions or its content.
_LASTING = (None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR)


class Passing(str):
    """Why a file cannot be read this time, such as an error of the disk or the network."""


@dataclass(frozen=True)
class Opened:
    """A picture as it was read.

    Attributes:
        image: "L" or "RGB", upright.
        size: (height, width) in the file, upright; None for drawings.
        notes: how the picture was adapted.
    """

    image: Image.Image
    size: tuple[int, int] | None
    notes: tuple[str, ...] = ()


def open_picture(
    file: Path | BinaryIO,
    cover: tuple[int, int],
    *,
    background: str = WHITE,
    drawings: bool = True,
) -> Opened:
    """The picture in a file.

    Args:
        file: its path, or its bytes.
        cover: least (height, width) of a drawing.
        background: colour of transparent areas; `CONTRAST` is white, or black where the picture
            has light colours alone.
        drawings: render SVG, which may name other files, as well.

    Raises:
        Exception: whatever Pillow meets in a damaged file, from IndexError to MemoryError; see
            `why`.
    """
    drawing = _drawing(file) if drawings else None
    if drawing is not None:
        return Opened(_flat(_draw(drawing, cover), background), None)
    with in_pillow(file) as opened:
        notes: tuple[str, ...] = (FIRST_FRAME,) if _has_frames(opened) else ()
        _scale_transparency(opened)
        opened.load()
        image, turned = _upright(opened)
        notes += () if turned else (MALFORMED_EXIF,)
        return Opened(_flat(image, background), (image.height, image.width), notes)


@contextlib.contextmanager
def in_pillow(file: Path | BinaryIO) -> Iterator[ImageFile]:
    """A picture as Pillow opens it, of the formats that are read here.

    Always from a stream: of a path, Pillow maps an uncompressed TIFF into memory, and mixes up the
    pixels of one whose EXIF lays it on its side.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
        yield stack.enter_context(Image.open(stream, formats=formats()))


def is_grey(file: Path | BinaryIO) -> bool | None:
    """Whether a picture has no colours, by its header; None if it cannot be read."""
    try:
        if _drawing(file) is not None:
            return False
        with in_pillow(file) as opened:
            return opened.mode in GREY_MODES
    except Exception:  # reading the picture reports the reason
        return None


def why(error: Exception, file: Path | BinaryIO) -> str:
    """Why a file cannot be read, without its path."""
    if isinstance(error, UnidentifiedImageError):
        return "no picture of a known format"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    reason = reason or type(error).__name__
    # Pillow puts the whole path in some messages.
    for path in (repr(str(file)), str(file)):
        for words in (f"image file {path}", f"file {path}", path):
            reason = reason.replace(words, "the file")
    passes = isinstance(error, OSError) and error.errno not in _LASTING
    return Passing(reason) if passes else reason


def has_colours(image: Image.Image) -> bool:
    """Whether a picture is coloured by more than JPEG artefacts."""
    if image.mode == "L":
        return False
    small = np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=np.int16)
    return int(np.ptp(small, axis=-1).max()) > 8


def _has_frames(image: Image.Image) -> bool:
    """Whether a file holds an animation or pages, rather than versions of one picture."""
    if image.format not in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged later frame
        return True


def is_turned(image: Image.Image) -> bool:
    """Whether a picture is seen turned or mirrored, by its EXIF."""
    try:
        return image.getexif().get(_ORIENTATION, 1) in _TURNS
    except Exception:  # malformed
        return False


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture rotated by its EXIF orientation, and whether that was readable."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # struct.error, SyntaxError, ...
        return image, False
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return (image if turn is None else image.transpose(turn)), True


def _scale_transparency(image: ImageFile) -> None:
    """Bring the level or colour that a PNG declares transparent to 8 bits, as Pillow its pixels.

    Before they are loaded, for afterwards nothing tells how many bits they had.
    """
    clear = image.info.get("transparency")
    layout = str(image.tile[0][3]) if image.tile else ""
    if isinstance(clear, int) and layout in _FEW_BITS:
        image.info["transparency"] = clear * 255 // _FEW_BITS[layout]
    elif isinstance(clear, tuple) and "16" in layout:
        image.info["transparency"] = tuple(level // 256 for level in clear)


def _flat(image: Image.Image, background: str) -> Image.Image:
    """The picture as "L" or "RGB", on a background."""
    if background == CONTRAST:
        on_white = _flat(image, "white")
        dark = on_white.convert("L").point(lambda level: 255 * (level < _LIGHT))
        return on_white if dark.getbbox() else _flat(image, "black")
    if image.mode in _SIXTEEN_BITS or image.mode in ("I", "F"):
        return _eight_bits(image, background)
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.mode == "LAB":
        image = _from_lab(image)
    grey = image.mode in GREY_MODES
    if "A" in image.getbands() or "transparency" in image.info:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, background), coloured)
    return image.convert("L" if grey else "RGB")


def _eight_bits(image: Image.Image, background: str) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F":
        pixels = _of_fractions(values.astype(np.float64))
    elif image.mode in _SIXTEEN_BITS or image.format in ("PNG", "PPM", "JPEG2000"):
        pixels = values.astype(np.int64) // 256
    else:
        pixels = _of_whole_numbers(values.astype(np.int64))
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # the one value that a PNG declares transparent
        pixels = np.where(values == clear, 255 if background == "white" else 0, pixels)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _of_whole_numbers(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"its values run from {low:,} to {high:,}; expected 0..255 or 0..65535")
    return values if high < 256 else values // 256


def _of_fractions(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0 or high > 65535:
        raise ValueError(
            f"its values run from {low:g} to {high:g}; expected 0..1, 0..255 or 0..65535"
        )
    if high <= 1:
        return np.rint(255 * values)
    return np.rint(values if high <= 255 else values // 256)


def _from_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # it is only where inPlace
    return converted


def _drawing(file: Path | BinaryIO) -> str | None:
    """The text of an SVG; None of other pictures."""
    if isinstance(file, Path):
        if suffix_of(file.name) not in VECTOR:
            return None
        content = file.read_bytes()
    else:
        head = file.read(_HEAD)
        content = head + file.read() if b"<svg" in head else b""
        file.seek(0)
    if not content:
        return None
    if content[:2] == b"\x1f\x8b":
        with gzip.open(io.BytesIO(content)) as packed:
            content = packed.read(_LONGEST_TEXT)
    _check_depth(content)
    return content.decode("utf-8-sig")


def _check_depth(content: bytes) -> None:
    """Raise `ValueError` for a drawing nested too deeply to render safely."""
    depth = 0

    def enter(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(f"its elements are nested more than {_DEEPEST} deep")

    def leave(*_: object) -> None:
        nonlocal depth
        depth -= 1

    parser = ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = enter, leave
    with contextlib.suppress(ExpatError):  # rendering it reports the reason
        parser.Parse(content, True)


def _draw(text: str, cover: tuple[int, int]) -> Image.Image:
    """A drawing that covers (height, width), in its own proportions."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise ValueError("SVG needs resvg-py: pip install 'nelbo[emoji]'") from error

    def within(side: int) -> Image.Image:
        # Always in a box, since the size in the file is arbitrary.
        drawn = svg_to_bytes(svg_string=text, width=side, height=side)
        return Image.open(io.BytesIO(bytes(drawn)))

    side = max(cover)
    image = within(side)
    # The shorter side of a small drawing is rounded, so one repetition may not be enough.
    while (scale := max(cover[0] / image.height, cover[1] / image.width)) > 1:
        side = math.ceil(scale * side)
        if side > _LONGEST_DRAWING * max(cover):
            raise ValueError("too long and narrow to be drawn")
        image = within(side)
    return image
