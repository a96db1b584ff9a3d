"""From the file of a picture to pixels: cut in the middle, resized, 8 bits a channel.

Pictures are decoded in threads: Pillow and resvg release Python's lock while they work, and a
script that loads data needs no `if __name__ == "__main__"`, which processes would ask for.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from nelbo.data.reader import has_colours, open_picture, why

COLOURS_LOST = "it has colours and is read as grey"
# Fewer pictures than this are read before a progress bar could be.
_FEW = 500
# What all threads together may hold of pictures that are being resized, in bytes.
_WORKING_MEMORY = 2**30

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Decoded:
    """A picture as it is kept.

    Attributes:
        pixels: (C, H, W) uint8.
        size: (height, width) of the picture in the file; None of drawings.
        notes: what was not taken from the file as it stands.
    """

    pixels: np.ndarray
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


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


def read_picture(
    file: Path | BinaryIO, size: int | tuple[int, int], channels: int
) -> Decoded | str:
    """The picture cut to a size, or why it cannot be read.

    Args:
        file: its path, or its bytes.
        size: height and width, or the side of a square.
        channels: 1 for grey or 3 for RGB.
    """
    frame = (size, size) if isinstance(size, int) else size
    try:
        opened = open_picture(file, frame)
        grey = channels == 1 and has_colours(opened.image)
        notes = (*opened.notes, COLOURS_LOST) if grey else opened.notes
        return Decoded(prepare(opened.image, frame, channels), opened.size, notes)
    # Pillow's readers raise whatever they meet in a damaged file, from IndexError to MemoryError.
    except Exception as error:
        return why(error, file)


def prepare(image: Image.Image, size: int | tuple[int, int], channels: int) -> np.ndarray:
    """The middle of a picture in the proportions of a size, resized, as (C, H, W) uint8."""
    height, width = (size, size) if isinstance(size, int) else size
    middle = image.convert("L" if channels == 1 else "RGB").crop(
        _middle((image.height, image.width), (height, width))
    )
    array = np.asarray(middle.resize((width, height), Image.Resampling.LANCZOS), dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _middle(of: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest box (left, top, right, bottom) in the proportions of a size, in the middle."""
    scale = min(of[0] / size[0], of[1] / size[1])
    height, width = (max(1, round(scale * side)) for side in size)
    left, top = (of[1] - width) // 2, (of[0] - height) // 2
    return left, top, left + width, top + height
