"""Images that are read as training needs them, for sets that are not to be copied to this disk.

Rows come in their order, once an epoch, and are shuffled in a buffer: each of its rows is as likely
to be next, and the next row of the set takes the place of the one drawn. The draws derive from
(seed, epoch), so that which row comes when is a function of the seed alone. To go on in the middle
of an epoch, its rows are read from the first one again, without decoding them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from nelbo.distributions import generator_for
from nelbo.errors import NelboError

# Of the streams that derive from a seed, that of the order of rows.
_SHUFFLING = 3


@dataclass(frozen=True)
class StreamedRow:
    """A row whose picture is not decoded yet.

    Attributes:
        name: what to call it.
        label: its class, −1 for none.
        decode: (C, H, W) uint8, or why there is none.
    """

    name: str
    label: int
    decode: Callable[[], np.ndarray | str]


@dataclass(frozen=True)
class StreamedBatch:
    """The rows of a step, of which each process decodes its part.

    Attributes:
        rows: of the whole batch.
    """

    rows: tuple[StreamedRow, ...]

    @property
    def labels(self) -> Int[Tensor, " batch"]:
        """The class of each, −1 for none."""
        return torch.tensor([row.label for row in self.rows])

    def images(self, part: slice) -> UInt8[Tensor, "part channels height width"]:
        """The pixels of some; in place of a picture that cannot be read comes the next that can.

        Raises:
            NelboError: no picture of the batch can be read.
        """
        with ThreadPoolExecutor() as threads:
            pixels = threads.map(self._readable, range(len(self.rows))[part])
            return torch.from_numpy(np.stack(list(pixels)))

    def _readable(self, place: int) -> np.ndarray:
        reason = ""
        for row in self.rows[place:] + self.rows[:place]:
            pixels = row.decode()
            if not isinstance(pixels, str):
                return pixels
            reason = reason or f"{row.name}: {pixels}"
        raise NelboError(f"none of {len(self.rows)} pictures can be read; the first: {reason}")


class ImageStream:
    """An endless stream of rows, epoch after epoch, from any place on.

    Args:
        open_rows: the rows of an epoch, from the first.
        buffer: how many rows to shuffle among; so many undecoded pictures are in memory.
        seed: decides the order.

    Attributes:
        epoch: which one the stream is in.
        first: the place in the stream where it began.
    """

    def __init__(
        self, open_rows: Callable[[], Iterable[StreamedRow]], buffer: int, seed: int = 0
    ) -> None:
        self.open_rows, self.buffer, self.seed = open_rows, buffer, seed
        self.seek(0, 0)

    def seeded(self, seed: int) -> ImageStream:
        """The same rows in the order of another seed, from the start."""
        return ImageStream(self.open_rows, self.buffer, seed)

    def seek(self, epoch: int, first: int) -> None:
        """Go to where an epoch begins."""
        self.epoch, self.first = epoch, first
        self._place, self._batch = first, StreamedBatch(())
        self._rows = self._from(epoch)

    def batch(self, first: int, size: int) -> StreamedBatch:
        """The rows at the places `first`, ..., `first + size − 1` of the stream."""
        if first != self._place - size or len(self._batch.rows) != size:
            if first < self._place:
                # Back to where the epoch began, or further.
                self.seek(*((self.epoch, self.first) if first >= self.first else (0, 0)))
            for _ in islice(self._rows, first - self._place):
                self._place += 1
            self._batch = StreamedBatch(tuple(islice(self._rows, size)))
            self._place += size
        return self._batch

    def _from(self, epoch: int) -> Iterator[StreamedRow]:
        place = self.first
        for self.epoch in count(epoch):
            self.first = place
            for row in shuffled(self.open_rows(), self.buffer, self.seed, self.epoch):
                place += 1
                yield row
            if place == self.first:
                raise NelboError("the stream of pictures is empty")


def shuffled(rows: Iterable[Any], buffer: int, seed: int, epoch: int) -> Iterator[Any]:
    """The rows in a random order that (seed, epoch) decides, `buffer` of them in memory."""
    generator = generator_for(seed, _SHUFFLING, epoch)
    held: list[Any] = []
    for row in rows:
        if len(held) < buffer:
            held.append(row)
            continue
        drawn = int(torch.randint(buffer, (), generator=generator))
        yield held[drawn]
        held[drawn] = row
    for drawn in torch.randperm(len(held), generator=generator).tolist():
        yield held[drawn]
