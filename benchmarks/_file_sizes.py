"""What image files take, with and without the bytes that hold no pixels."""

from __future__ import annotations

import io
import math
import struct
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from nelbo.report.grids import to_pil

# Pillow's strongest settings without loss.
FORMATS = {
    "PNG": {"format": "PNG", "optimize": True},
    "WebP": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6},
}
_PNG_SIGNATURE = 8
# Of the chunk VP8L: a signature of one byte, width, height, a flag and the version in four.
_VP8L_HEADER = 5


class FileSize(NamedTuple):
    """Bytes of a file, and of the compressed pixels in it."""

    whole: int
    pixels: int


def file_size(image: Image.Image, kind: str) -> FileSize:
    """An image as a file of one of `FORMATS`."""
    buffer = io.BytesIO()
    image.save(buffer, **FORMATS[kind])
    content = buffer.getvalue()
    return FileSize(len(content), {"PNG": png_pixels, "WebP": webp_pixels}[kind](content))


def png_pixels(content: bytes) -> int:
    """The bytes of the IDAT chunks of a PNG file (ISO 15948, 5.3: length, type, data, checksum)."""
    total, at = 0, _PNG_SIGNATURE
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        if content[at + 4 : at + 8] == b"IDAT":
            total += length
        at += 12 + length
    return total


def webp_pixels(content: bytes) -> int:
    """The bytes of a lossless WebP file (RFC 9649) that come after all headers."""
    at = 12  # RIFF, size, WEBP
    while at < len(content):
        (length,) = struct.unpack("<I", content[at + 4 : at + 8])
        if content[at : at + 4] == b"VP8L":
            return length - _VP8L_HEADER
        at += 8 + length + length % 2
    raise ValueError("no VP8L chunk: not a lossless WebP file")


def packed(images: Tensor) -> Image.Image:
    """Images (N, C, H, W) in one picture, row by row as square as can be, the rest white."""
    n, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(n * height / width))
    rows = -(-n // columns)
    page = images.new_full((rows * columns, channels, height, width), 255)
    page[:n] = images
    whole = page.view(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return to_pil(whole.reshape(channels, rows * height, columns * width))


def bits_per_dim(size: int, dims: int) -> float:
    """Bytes of a file in bits for each of so many values."""
    return 8 * size / dims
