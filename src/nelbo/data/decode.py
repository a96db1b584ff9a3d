"""Decode picture files: cropped at the centre, resized, 8 bits a channel.

Pictures are decoded in threads: Pillow and resvg release Python's lock while they work, and a
script that loads data needs no `if __name__ == "__main__"`, as it would with processes.
"""

from __future__ import annotations

import hashlib
import math
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

from nelbo.data.reader import WHITE, has_colours, open_picture, why
from nelbo.data.size import Size

COLOURS_LOST = "colours: read as grey"
# Fewer pictures than this need no progress bar.
_FEW = 500
# Memory of all threads together for pictures that are being resized, in bytes.
_WORKING_MEMORY = 2**30

# A random crop is at least one over this of the largest.
_ZOOM = 4
_Box = tuple[int, int, int, int]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Decoded:
    """A decoded picture.

    Attributes:
        pixels: (C, H, W) uint8.
        size: (height, width) of the picture in the file; None for drawings.
        notes: how the picture was adapted.
    """

    pixels: np.ndarray
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


def in_threads(
    items: Iterable[Item], work: Callable[[Item], Result], *, total: int | None, size: Size
) -> Iterator[Result]:
    """`work` of each item in order, computed a little ahead of the consumer.

    Args:
        items: what to work on; iterated lazily.
        work: what to do with one of them.
        total: how many there are, for the progress bar; None where unknown.
        size: of the pictures, which decides how many fit in memory at once.
    """
    threads = max(1, min(os.cpu_count() or 1, _WORKING_MEMORY // (8 * size[0] * size[1])))
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
    file: Path | BinaryIO, size: int | Size, channels: int, *, background: str = WHITE
) -> Decoded | str:
    """The picture cropped to a size, or the reason why it cannot be read.

    Args:
        file: its path, or its bytes.
        size: height and width, or the side of a square.
        channels: 1 for grey or 3 for RGB.
        background: of transparent areas, as `reader.open_picture`.
    """
    frame = (size, size) if isinstance(size, int) else size
    found = _read(
        file, frame, channels, background, lambda image: [prepare(image, frame, channels)]
    )
    return found if isinstance(found, str) else found[0]


def read_crops(
    file: Path | BinaryIO,
    size: Size,
    channels: int,
    crops: int,
    name: str,
    *,
    background: str = WHITE,
) -> list[Decoded] | str:
    """Random crops of the picture, resized to a size, or the reason why it cannot be read.

    A crop has the proportions of the size. Its scale is log-uniform between a quarter of the
    picture and all of it, never below the size itself; its position is uniform. A picture no larger
    than the size gives one crop. A single crop is that of the centre, as in `read_picture`.

    Args:
        file: its path, or its bytes.
        size: height and width.
        channels: 1 for grey or 3 for RGB.
        crops: number of crops.
        name: of the picture, which seeds the positions.
        background: of transparent areas, as `reader.open_picture`.
    """
    if crops == 1:
        found = read_picture(file, size, channels, background=background)
        return found if isinstance(found, str) else [found]

    def cut(image: Image.Image) -> list[np.ndarray]:
        boxes = _random_boxes((image.height, image.width), size, crops, name)
        return [_cut(image, box, size, channels) for box in boxes]

    return _read(file, (_ZOOM * size[0], _ZOOM * size[1]), channels, background, cut)


def _read(
    file: Path | BinaryIO,
    cover: Size,
    channels: int,
    background: str,
    cut: Callable[[Image.Image], list[np.ndarray]],
) -> list[Decoded] | str:
    try:
        opened = open_picture(file, cover, background=background)
        grey = channels == 1 and has_colours(opened.image)
        notes = (*opened.notes, COLOURS_LOST) if grey else opened.notes
        return [Decoded(pixels, opened.size, notes) for pixels in cut(opened.image)]
    # Pillow's readers raise whatever they meet in a damaged file, from IndexError to MemoryError.
    except Exception as error:
        return why(error, file)


def prepare(image: Image.Image, size: int | Size, channels: int) -> np.ndarray:
    """The middle of a picture in the proportions of a size, resized, as (C, H, W) uint8."""
    height, width = (size, size) if isinstance(size, int) else size
    of = image.height, image.width
    box = _box(of, (height, width), min(of[0] / height, of[1] / width), (0.5, 0.5))
    return _cut(image, box, (height, width), channels)


def _cut(image: Image.Image, box: _Box, size: Size, channels: int) -> np.ndarray:
    part = image.convert("L" if channels == 1 else "RGB").crop(box)
    resized = part.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    array = np.asarray(resized, dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _random_boxes(of: Size, size: Size, crops: int, name: str) -> list[_Box]:
    """Boxes (left, top, right, bottom) in the proportions of a size; only the largest if the
    picture is no larger than the size."""
    largest = min(of[0] / size[0], of[1] / size[1])
    if largest <= 1:
        return [_box(of, size, largest, (0.5, 0.5))]
    seed = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    random = np.random.default_rng(int.from_bytes(seed))
    low, high = math.log(max(1.0, largest / _ZOOM)), math.log(largest)
    return [
        _box(of, size, math.exp(scale), (down, right))
        for scale, down, right in zip(
            random.uniform(low, high, crops), *random.random((2, crops)), strict=True
        )
    ]


def _box(of: Size, size: Size, scale: float, place: tuple[float, float]) -> _Box:
    """A box of a size times a scale; position 0 is left or top, 1 is right or bottom."""
    height, width = (
        min(whole, max(1, round(scale * side))) for whole, side in zip(of, size, strict=True)
    )
    left, top = int(place[1] * (of[1] - width)), int(place[0] * (of[0] - height))
    return left, top, left + width, top + height
