"""From the file of a picture to pixels: cropped to the centre square, resized, 8 bits a channel.

Pictures are decoded in threads: Pillow and resvg release Python's lock while they work, and a
script that loads data needs no `if __name__ == "__main__"`, which processes would ask for.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

GREY_MODES = ("1", "L", "LA", "I;16", "I", "F")
# Fewer pictures than this are read before a progress bar could be.
_FEW = 500
# What all threads together may hold of pictures that are being resized, in bytes.
_WORKING_MEMORY = 2**30

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    items: Iterable[Item], work: Callable[[Item], Result], *, total: int | None, size: int
) -> Iterator[Result]:
    """`work` of each item in order, computed a little ahead of what is taken.

    Args:
        items: what to work on; iterated lazily.
        work: what to do with one of them.
        total: how many there are, for the progress bar; None where unknown.
        size: side of the pictures, which decides how many fit in memory at once.
    """
    threads = max(1, min(os.cpu_count() or 1, _WORKING_MEMORY // (8 * size * size)))
    results = _ahead(items, work, threads)
    shown = Console(stderr=True)
    few = total is not None and total < _FEW
    yield from track(results, "Reading pictures", total=total, console=shown, disable=few)


def _ahead(items: Iterable[Item], work: Callable[[Item], Result], threads: int) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def read_picture(file: Path | BinaryIO, size: int, channels: int) -> np.ndarray | str:
    """The picture as (C, size, size) uint8, or why it cannot be read."""
    try:
        with Image.open(file) as opened:
            return prepare(ImageOps.exif_transpose(opened), size, channels)
    # Pillow's readers raise whatever they meet in a damaged file, from IndexError to MemoryError.
    except Exception as error:
        if isinstance(error, UnidentifiedImageError):
            return "no picture of a known format"
        # Pillow puts the whole path in some messages; the list names the file already.
        reason = str(error) or type(error).__name__
        for path in (repr(str(file)), str(file)):
            for words in (f"image file {path}", f"file {path}", path):
                reason = reason.replace(words, "the file")
        return reason


def is_grey(file: Path | BinaryIO) -> bool | None:
    """Whether a picture has no colours, by its header; None where it cannot be read."""
    try:
        with Image.open(file) as opened:
            return opened.mode in GREY_MODES
    except Exception:  # as above; reading the picture will say why
        return None


def prepare(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """The centre square, resized, as (C, size, size) uint8; what is transparent becomes white."""
    if image.mode in ("I;16", "I"):  # 16 bits a pixel
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        image = Image.alpha_composite(white, coloured)
    image = image.convert("L" if channels == 1 else "RGB")
    square = _centre_square(image).resize((size, size), Image.Resampling.LANCZOS)
    array = np.asarray(square, dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _centre_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
