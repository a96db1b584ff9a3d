r"""What image files of the same pictures take, to stand beside bits per dimension.

A figure in bits/dim needs a reference, since sets differ in how compressible they are. Beside it
stand PNG, lossless WebP and, where `pillow-jxl-plugin` is installed, JPEG XL of the same pictures,
each picture a file of its own, and the bits of the pixels as they are, log₂ of their levels.

A small picture's file is largely headers, so *pixels only* counts the compressed data alone, with
the palette where there is one. That is what is shown of pictures up to 64×64; JPEG XL packs its few
bytes of headers together with the data, and is always counted whole. Pictures of a few dozen pixels
are too short for any coder to adapt to; *all in one file* packs them into one picture, which also
writes what they have in common once, as a model does that was trained on their like.

Pixels of fewer than 256 levels are written as those levels, not stretched to 0..255, which would
cost predictors dearly, and PNG takes the smaller of values and a palette.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import struct
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from nelbo.base.digest import digest
from nelbo.base.errors import NelboError
from nelbo.base.files import finite
from nelbo.chain.estimate import Estimate
from nelbo.evidence.feature_spaces import some_of
from nelbo.evidence.inputs import check_pictures

PNG, WEBP, JXL = "PNG", "WebP", "JPEG XL"
# How each is called beside a figure.
TITLES = {PNG: "PNG", WEBP: "lossless WebP", JXL: "JPEG XL"}
# Up to this side headers are left out.
SMALL_SIDE = 64
# Up to this number of pixels, of a picture and of a page of all, WebP tries its slowest search too:
# it saves up to 8% of drawings of 32×32, nothing of photographs, and takes 15 to 25 times as long.
_SEARCHED_PIXELS, _SEARCHED_PAGE = 32 * 32, 2**17
_WEBP_METHODS = (4, 6)
# Of more pictures than these it is tried on as many first, and given up where it saves less than
# this share of their bytes.
_TRIED, _SAVES = 16, 0.002
# Largest number of pictures, and about the number of values, that are written to files.
MOST_IMAGES, MOST_VALUES = 300, 1_000_000
_LEAST_IMAGES = 32
# Pictures whose time foretells that of others. The page of all takes about half as long as all
# alone, and WebP's slow search of it six times as long as those of all alone.
_TIMED, _WITH_PAGE, _SEARCH_OF_PAGE = 4, 1.5, 6
# What Pillow calls pictures, by their channels.
MODES = {1: "L", 3: "RGB"}
_PALETTE = 256
_PNG_SIGNATURE = 8
# Of the chunk VP8L: a signature of one byte, width, height, a flag and the version in four.
_VP8L_HEADER = 5
# Results by pictures: a command shows the same ones in several places.
_KNOWN: OrderedDict[str, FileSizes] = OrderedDict()
_REMEMBERED = 16


class FileSize(NamedTuple):
    """Bytes of a file, and of the compressed pixels in it; the same if they cannot be separated."""

    whole: int
    pixels: int


@dataclass(frozen=True)
class FormatBits:
    """Bits per dimension of pictures in one format.

    Attributes:
        whole: of the files.
        pixels: without their headers; None if they cannot be separated.
        together: of one file with all of the pictures, where what they have in common is written
            once; None for large pictures.
    """

    whole: Estimate
    pixels: Estimate | None
    together: float | None = None


@dataclass(frozen=True)
class FileSizes:
    """What files of some pictures take.

    Attributes:
        formats: by their name in `TITLES`.
        images: how many pictures were written.
        of: out of how many.
        raw: bits per dimension of the pixels as they are, log₂ of the levels.
        small: whether the pictures are small, so that figures without headers are shown.
    """

    formats: dict[str, FormatBits]
    images: int
    of: int
    raw: float
    small: bool

    @property
    def shown(self) -> dict[str, Estimate]:
        """What to show of each format: without headers for small pictures, where they are known."""
        return {
            name: bits.pixels if self.small and bits.pixels is not None else bits.whole
            for name, bits in self.formats.items()
        }

    @property
    def together(self) -> dict[str, float]:
        """All of the pictures in one file, by format; empty for large ones."""
        return {
            name: bits.together for name, bits in self.formats.items() if bits.together is not None
        }

    @property
    def note(self) -> str:
        """Which files these are, in a few words."""
        of = "" if self.images == self.of else f" of {self.images:,} of them"
        if not self.small:
            return f"a file each{of}"
        return f"a file each{of}, without headers" + (
            " but JPEG XL's" if JXL in self.formats else ""
        )

    @property
    def line(self) -> str:
        """One line for a terminal."""
        sizes = ", ".join(f"{TITLES[name]} {bits.mean:.3f}" for name, bits in self.shown.items())
        together = ", ".join(f"{TITLES[name]} {bits:.3f}" for name, bits in self.together.items())
        parts = [f"{sizes} bits/dim ({self.note})"]
        if together:
            parts.append(f"all in one file {together}")
        parts.append(f"{self.raw:.3f} as they are")
        return f"the same pictures as files: {'; '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        """For a file: bits per dimension of each format, whole and without headers."""
        return {
            "images": self.images,
            "of": self.of,
            "raw": self.raw,
            "formats": {
                name: {
                    "bits_per_dim": bits.whole.mean,
                    "standard_error": finite(bits.whole.standard_error),
                    "without_headers": None if bits.pixels is None else bits.pixels.mean,
                    "in_one_file": bits.together,
                }
                for name, bits in self.formats.items()
            },
            "without_headers_shown": self.small,
        }


def file_sizes(
    images: UInt8[Tensor, "n channels height width"],
    levels: int,
    *,
    most: int = MOST_IMAGES,
    seconds: float | None = None,
) -> FileSizes | None:
    """Bits per dimension of pictures as files; None for what is neither grey nor RGB.

    Args:
        images: pixel levels 0..levels−1, (N, C, H, W).
        levels: how many levels a pixel has.
        most: how many pictures to write at most, drawn at random; fewer where they are large.
        seconds: about how long it may take; at least 32 pictures are written.
    """
    check_pictures(images=images)
    channels, height, width = images.shape[1:]
    if channels not in MODES or len(images) == 0:
        return None
    dims = channels * height * width
    count = min(len(images), most, max(_LEAST_IMAGES, MOST_VALUES // dims))
    searched = _SEARCHED_PAGE
    if seconds is not None:
        took = _seconds_each(images[:_TIMED], levels)
        count = min(count, max(_LEAST_IMAGES, int(seconds / (_WITH_PAGE * sum(took.values())))))
        if _SEARCH_OF_PAGE * took[WEBP] * count > seconds:
            searched = 0
    some = some_of(images, count)
    key = _key(some, levels, len(images), searched)
    if key not in _KNOWN:
        small = max(height, width) <= SMALL_SIDE
        page = packed(some, levels) if small and count > 1 else None
        formats = {}
        for kind in formats_here():
            whole, pixels = (8 * size / dims for size in sizes_of_each(some, levels, kind))
            together = None
            if page is not None:
                together = bits_per_dim(_page_size(page, kind, searched), some.numel())
            alone = None if kind == JXL else Estimate.of(pixels)
            formats[kind] = FormatBits(Estimate.of(whole), alone, together)
        _KNOWN[key] = FileSizes(formats, count, len(images), math.log2(levels), small)
        if len(_KNOWN) > _REMEMBERED:
            _KNOWN.popitem(last=False)
    _KNOWN.move_to_end(key)
    return _KNOWN[key]


def total_sizes(images: Sequence[Tensor], levels: int) -> dict[str, int]:
    """Bytes of pictures of any sizes by format, the smaller of a file each and of all in one.

    Beside the formats of pictures it holds "zstd", of all raw pixels in one block, where zstandard
    is installed. All in one is tried where the pictures are small and of one size.
    """
    found: dict[str, int] = {}
    alike = len({image.shape for image in images}) == 1
    if len(images[0]) in MODES:
        small = alike and max(images[0].shape[1:]) <= SMALL_SIDE and len(images) > 1
        page = packed(torch.stack(list(images)), levels) if small else None
        for kind in formats_here():
            each = sum(file_size(picture(image, levels), kind).whole for image in images)
            found[kind] = each if page is None else min(each, _page_size(page, kind))
    with contextlib.suppress(ImportError):
        zstandard = importlib.import_module("zstandard")
        raw = b"".join(image.to(torch.uint8).numpy().tobytes() for image in images)
        found["zstd"] = len(zstandard.ZstdCompressor(level=19).compress(raw))
    return found


def raw_size(dims: int, levels: int) -> int:
    """Bytes of pixels as they are, log₂ of the levels each."""
    return math.ceil(dims * math.log2(levels) / 8)


def sizes_json(sizes: FileSizes | None) -> dict[str, Any] | None:
    """`FileSizes.to_json` where there are any."""
    return None if sizes is None else sizes.to_json()


def sizes_of_each(
    images: UInt8[Tensor, "n channels height width"], levels: int, kind: str = WEBP
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Bytes of each picture as a file of its own, and of the compressed pixels in it.

    Raises:
        NelboError: pictures that are neither grey nor RGB, or a pixel outside the levels.
    """
    searched = _SEARCHED_PIXELS * (kind == WEBP and _search_pays(images, levels))
    sizes = [file_size(picture(image, levels), kind, searched=searched) for image in images]
    whole, pixels = zip(*sizes, strict=True) if sizes else ((), ())
    return torch.tensor(whole).double(), torch.tensor(pixels).double()


def formats_here() -> list[str]:
    """The formats that can be written: JPEG XL where its plugin for Pillow is installed."""
    return [PNG, WEBP, *([JXL] if _jpeg_xl() else [])]


def picture(image: UInt8[Tensor, "channels height width"], levels: int = 256) -> Image.Image:
    """One image with its pixel levels as the values of a grey or RGB picture.

    Raises:
        NelboError: neither one nor three channels, or a pixel outside the levels.
    """
    channels = len(image)
    if channels not in MODES:
        raise NelboError(f"images must have 1 (grey) or 3 (RGB) channels, got {channels}")
    if image.numel() and int(image.max()) >= levels:
        raise NelboError(f"found pixel level {int(image.max())}, expected 0..{levels - 1}")
    values = image.cpu().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(values[..., 0] if channels == 1 else values, MODES[channels])


def file_size(image: Image.Image, kind: str, *, searched: int = _SEARCHED_PIXELS) -> FileSize:
    """A grey or RGB image as a file of one of the formats.

    Args:
        image: the picture.
        kind: the format.
        searched: up to how many pixels WebP tries its slowest search, too.
    """
    if kind == PNG:
        candidates = [image, *_with_palette(image)]
        return min((_png_size(some) for some in candidates), key=lambda size: size.pixels)
    if kind == WEBP:
        methods = _WEBP_METHODS if image.width * image.height <= searched else _WEBP_METHODS[:1]
        return min((_webp_size(image, method) for method in methods), key=lambda size: size.pixels)
    content = _saved(image, format="JXL", lossless=True, effort=9)
    return FileSize(len(content), len(content))


def png_pixels(content: bytes) -> int:
    """The bytes of pixels in a PNG file: of its IDAT chunks, and of its palette.

    ISO 15948, 5.3: length, type, data, checksum.
    """
    total, at = 0, _PNG_SIGNATURE
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        if content[at + 4 : at + 8] in (b"IDAT", b"PLTE"):
            total += length
        at += 12 + length
    return total


def _seconds_each(
    images: UInt8[Tensor, "n channels height width"], levels: int
) -> dict[str, float]:
    """How long a picture takes in each format."""
    found = {}
    for kind in formats_here():
        begun = time.perf_counter()
        sizes_of_each(images, levels, kind)
        found[kind] = (time.perf_counter() - begun) / len(images)
    return found


def _page_size(page: Image.Image, kind: str, searched: int = _SEARCHED_PAGE) -> int:
    return file_size(page, kind, searched=searched).whole


def _search_pays(images: UInt8[Tensor, "n channels height width"], levels: int) -> bool:
    """Whether WebP's slowest search saves enough of these pictures; of few it may."""
    if len(images) <= _TRIED or images[0, 0].numel() > _SEARCHED_PIXELS:
        return True
    tried = [picture(image, levels) for image in images[:: len(images) // _TRIED]]
    plain, searched = (
        sum(file_size(one, WEBP, searched=most).pixels for one in tried)
        for most in (0, _SEARCHED_PIXELS)
    )
    return plain - searched > _SAVES * plain


def _webp_size(image: Image.Image, method: int) -> FileSize:
    content = _saved(image, format="WEBP", lossless=True, quality=100, method=method)
    return FileSize(len(content), webp_pixels(content))


def webp_pixels(content: bytes) -> int:
    """The bytes of a lossless WebP file (RFC 9649) that come after all headers."""
    at = 12  # RIFF, size, WEBP
    while at < len(content):
        (length,) = struct.unpack("<I", content[at + 4 : at + 8])
        if content[at : at + 4] == b"VP8L":
            return length - _VP8L_HEADER
        at += 8 + length + length % 2
    raise ValueError("no VP8L chunk: not a lossless WebP file")


def packed(images: UInt8[Tensor, "n channels height width"], levels: int = 256) -> Image.Image:
    """Images in one picture, row by row as square as can be, the rest white."""
    n, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(n * height / width))
    rows = -(-n // columns)
    page = images.new_full((rows * columns, channels, height, width), levels - 1)
    page[:n] = images
    whole = page.view(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return picture(whole.reshape(channels, rows * height, columns * width), levels)


def bits_per_dim(size: int, dims: int) -> float:
    """Bytes of a file as bits for each of a number of values."""
    return 8 * size / dims


def _png_size(image: Image.Image) -> FileSize:
    content = _saved(image, format="PNG", optimize=True)
    return FileSize(len(content), png_pixels(content))


def _with_palette(image: Image.Image) -> Sequence[Image.Image]:
    """The same image with a palette, if it has few enough colours."""
    values = np.asarray(image)
    colours, where = np.unique(
        values.reshape(-1, values.shape[2] if values.ndim == 3 else 1), axis=0, return_inverse=True
    )
    if len(colours) > _PALETTE:
        return []
    indexed = Image.fromarray(where.reshape(values.shape[:2]).astype(np.uint8), "L")
    indexed.putpalette(np.broadcast_to(colours, (len(colours), 3)).astype(np.uint8).tobytes())
    return [indexed]


def _saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def _jpeg_xl() -> bool:
    """Whether Pillow writes JPEG XL, by itself or with its plugin."""
    Image.init()
    if "JXL" not in Image.SAVE:
        try:
            importlib.import_module("pillow_jxl")
        except ImportError:
            return False
    return "JXL" in Image.SAVE


def _key(images: Tensor, levels: int, of: int, searched: int) -> str:
    return digest(
        [images, f"{tuple(images.shape)} {levels} {of} {searched} {formats_here()}"], size=16
    )
