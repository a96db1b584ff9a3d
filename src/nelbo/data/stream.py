"""Images streamed during training, for sets that are not copied to disk.

Rows come in their order, once an epoch, and are shuffled in a buffer: a row of the buffer is drawn
uniformly, and the next row of the set replaces it. The draws derive from (seed, epoch), so that the
order is a function of the seed alone. To resume within an epoch, its rows are read again from the
first, without decoding them.

A thread reads and decodes the next batches while a step is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.distributions import generator_for
from nelbo.data.read_ahead import ReadAhead

# Batches that are read and decoded ahead of the one in use.
AHEAD = 2
# The random stream of a seed for the order of rows.
_SHUFFLING = 3


@dataclass(frozen=True)
class StreamedRow:
    """A row whose picture is not decoded yet.

    Attributes:
        name: name of the row.
        label: its class, −1 for none.
        decode: (C, H, W) uint8, or the reason why it cannot be read.
    """

    name: str
    label: int
    decode: Callable[[], np.ndarray | str]


@dataclass(frozen=True)
class StreamedBatch:
    """The rows of a step, of which each process decodes its part.

    Attributes:
        rows: of the whole batch.
        epoch: epoch of its last row.
        began: the position in the stream where that epoch began.
        decoded: parts that are already decoded, by start and stop.
    """

    rows: tuple[StreamedRow, ...]
    epoch: int = 0
    began: int = 0
    decoded: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)

    @property
    def labels(self) -> Int[Tensor, " batch"]:
        """The class of each, −1 for none."""
        return torch.tensor([row.label for row in self.rows])

    def images(self, part: slice) -> UInt8[Tensor, "part channels height width"]:
        """The pixels of a part; an unreadable picture is replaced by the next readable one.

        Raises:
            NelboError: no picture of the batch can be read.
        """
        start, stop, _ = part.indices(len(self.rows))
        if (start, stop) in self.decoded:
            return self.decoded[start, stop]
        with ThreadPoolExecutor() as threads:
            pixels = threads.map(self._readable, range(start, stop))
            return torch.from_numpy(np.stack(list(pixels)))

    def decode(self, parts: Sequence[slice]) -> StreamedBatch:
        """The batch with these parts decoded; errors as `images`."""
        decoded = {part.indices(len(self.rows))[:2]: self.images(part) for part in parts}
        return replace(self, decoded=decoded)

    def _readable(self, place: int) -> np.ndarray:
        reason = ""
        for row in self.rows[place:] + self.rows[:place]:
            pixels = row.decode()
            if not isinstance(pixels, str):
                return pixels
            reason = reason or f"{row.name}: {pixels}"
        raise NelboError(f"none of {len(self.rows)} pictures can be read; the first: {reason}")


class ImageStream:
    """An endless stream of rows, epoch after epoch, from any position.

    Args:
        open_rows: the rows of an epoch, from the first.
        buffer: number of rows to shuffle among, which are held in memory undecoded.
        seed: decides the order.

    Attributes:
        epoch: epoch in which the last batch ended.
        first: the position in the stream where that epoch began.
    """

    def __init__(
        self, open_rows: Callable[[], Iterable[StreamedRow]], buffer: int, seed: int = 0
    ) -> None:
        self.open_rows, self.buffer, self.seed = open_rows, buffer, seed
        self._parts: Sequence[slice] | None = None
        self._ahead: ReadAhead[StreamedBatch] | None = None
        self._reader = _Reader(self, 0, 0)
        self.seek(0, 0)

    def seeded(self, seed: int) -> ImageStream:
        """The same rows in the order of another seed, from the start."""
        return ImageStream(self.open_rows, self.buffer, seed)

    def seek(self, epoch: int, first: int) -> None:
        """Go to where an epoch begins."""
        self._reader.stopped = True
        if self._ahead is not None:
            self._ahead.close()
        self.epoch, self.first = epoch, first
        self._reader, self._ahead = _Reader(self, epoch, first), None
        self._given: tuple[int, int] | None = None
        self._coming: tuple[int, int] | None = None
        self._batch = StreamedBatch(())

    @contextmanager
    def reading_ahead(self, parts: Sequence[slice]) -> Iterator[None]:
        """While this lasts, a thread reads the next `AHEAD` batches and decodes parts of them.

        Args:
            parts: what of each batch will be asked for; other images are decoded when they are.
        """
        self._parts = parts
        try:
            yield
        finally:
            self._parts = None
            if self._ahead is not None:
                # The thread is further than what was asked for.
                self.seek(self.epoch, self.first)

    def batch(self, first: int, size: int) -> StreamedBatch:
        """The rows at the places `first`, ..., `first + size − 1` of the stream.

        Raises:
            NelboError: there are no rows, or they cannot be read.
        """
        if self._given != (first, size):
            try:
                batch = self._next(first, size)
            except BaseException:
                self.seek(self.epoch, self.first)  # what broke off reads no further
                raise
            self._given, self._batch = (first, size), batch
            self.epoch, self.first = batch.epoch, batch.began
        return self._batch

    def _next(self, first: int, size: int) -> StreamedBatch:
        if self._ahead is not None and self._coming != (first, size):
            self.seek(self.epoch, self.first)
        if self._ahead is None:
            began, had = self._given or (-1, 0)
            if self._parts is None and began == first and had < size:
                # The last batch, and the rows after it.
                rest = self._reader.read(first + had, size - had)
                return replace(rest, rows=self._batch.rows + rest.rows)
            if first < self._reader.place:
                # Back to where the epoch began, or further.
                self.seek(*((self.epoch, self.first) if first >= self.first else (0, 0)))
            if self._parts is None:
                return self._reader.read(first, size)
            self._ahead = ReadAhead(self._reader.batches(first, size, self._parts), AHEAD)
        self._coming = first + size, size
        return self._ahead.take()


class _Reader:
    """Reads rows of a stream, in one thread at a time.

    Args:
        stream: which rows, in which order.
        epoch: where to begin.
        first: the place where that epoch begins.

    Attributes:
        place: the place of the next row.
        stopped: set from another thread to end reading at the next row.
    """

    def __init__(self, stream: ImageStream, epoch: int, first: int) -> None:
        self.stream = stream
        self.epoch, self.began, self.place = epoch, first, first
        self.stopped = False
        self._rows = self._from(epoch)

    def read(self, first: int, size: int) -> StreamedBatch:
        """The rows from `first` on, which is no place before the next row."""
        for _ in islice(self._rows, first - self.place):
            self.place += 1
        rows = tuple(islice(self._rows, size))
        self.place += size
        return StreamedBatch(rows, self.epoch, self.began)

    def batches(self, first: int, size: int, parts: Sequence[slice]) -> Iterator[StreamedBatch]:
        """This batch and all after it, with some parts decoded."""
        for start in count(first, size):
            yield self.read(start, size).decode(parts)

    def _from(self, epoch: int) -> Iterator[StreamedRow]:
        place = self.began
        for self.epoch in count(epoch):
            self.began = place
            rows = self._unless_stopped(self.stream.open_rows())
            for row in shuffled(rows, self.stream.buffer, self.stream.seed, self.epoch):
                place += 1
                yield row
            if place == self.began:
                raise NelboError("the stream of pictures is empty")

    def _unless_stopped(self, rows: Iterable[StreamedRow]) -> Iterator[StreamedRow]:
        for row in rows:
            if self.stopped:
                raise NelboError("reading the stream was stopped")
            yield row


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
