"""Tables of pictures: data sets of the Hugging Face Hub, and parquet files; extra `hub`.

The rows are decoded once into the cache, one split after the other; later calls do not contact the
Hub. Columns and splits are recognised by name and type; options override this:

    hub:user/name?image=photo&label=kind&caption=text       columns
    hub:user/name?config=small&train=train&test=dev         configuration and splits,
                                                            `validation` likewise
    hub:user/name?revision=v2&max_images=5000               a fixed version; at most 5,000 rows
                                                            of each split
    hub:user/name?stream=10000                              no copy; shuffled in a buffer of
                                                            10,000 rows
    photos.parquet?crops=8                                  eight training crops of each picture

With `max_images` the rows are streamed, and later rows are not downloaded. Without a test split the
rows of index i with i mod 10 = 9 are for test, and without a validation split those with
i mod 10 = 8. If a set has a validation split but no test split, the former serves for test, unless
`validation` names it.

With `stream` the first rows of each split, 2,000 or `max_images`, are decoded into the cache, to
read the bound on; training reads the whole train split anew each epoch, see `stream`.
"""

from __future__ import annotations

import glob
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nelbo.base.errors import NelboError, optional
from nelbo.data.cache import Picture, cached, check_size, not_white
from nelbo.data.columns import caption_of, class_names_of, columns_of, label_of
from nelbo.data.credits import CREDITS
from nelbo.data.crops import base_of, kept_crops, settle_crops
from nelbo.data.decode import Decoded, in_threads, read_crops
from nelbo.data.image_data import ImageData
from nelbo.data.labels import class_names, index_labels, name_of
from nelbo.data.reader import WHITE
from nelbo.data.size import Size
from nelbo.data.splits import ALL, TEST, TRAIN, VALIDATION, EmptySplitError, fill_split
from nelbo.data.stream import ImageStream, StreamedRow
from nelbo.data.table import Parts, Table

# Rows of a file that are read at a time.
_BATCH = 100


def load_table(
    table: Table,
    split: str,
    size: Size,
    channels: int,
    *,
    validation: bool = True,
    resize: bool = True,
    background: str = WHITE,
) -> ImageData:
    """The pictures of one split, cut and resized; arguments as `nelbo.data.load_data`.

    Raises:
        MissingExtraError: datasets is not installed.
        NelboError: the Hub cannot be reached, the data set, a split or a column is not there, no
            picture can be read, or one is of another size without `resize`.
    """
    if table.stream is not None:
        kept = table.kept()
        shown: Any = {"validation": validation, "resize": resize, "background": background}
        data = load_table(kept, split, size, channels, **shown)
        if split != TRAIN:
            return data
        every = load_table(kept, ALL, size, channels, **shown)
        held = {
            base_of(name, table.crops)
            for name, part in zip(every.names, every.splits or (), strict=True)
            if part != TRAIN
        }
        stream = _streamed(table, size, channels, data.label_names, validation, held, background)
        return replace(data, stream=stream)
    extra: dict[str, Any] = {}
    exact = not resize and table.crops == 1
    rows = _Rows(table, validation)
    path = str(Path(table.path).resolve()) if table.local else table.path
    entry = cached(
        ("table", path, validation, *not_white(background)),
        [sorted(table.options.items()), _stamp(table)],
        (channels, *size),
        lambda: _decoded(table, size, channels, exact, rows, extra, background),
        extra=extra,
        settle=settle_crops(rows.split, table.crops),
    )
    if not entry.names:
        reasons = f"; the first: {entry.skipped_of('all')[0]}" if entry.skipped else ""
        raise NelboError(f"{table.source} holds no picture that can be read{reasons}")
    if exact:
        entry.check_sizes(f"{table.source}, ", size)
    here = entry.stretch(split)
    if not entry.names[here]:
        raise EmptySplitError(
            f"{table.source} has {len(entry.names)} readable pictures, and none for "
            f"the {split} split"
        )
    labels, label_names = _labels(entry.labels, entry.extra.get("label_names"))
    has_captions = any(caption is not None for caption in entry.captions)
    return entry.data(
        split,
        table.source,
        split_note=entry.extra.get("split_note"),
        labels=None if labels is None else labels[here],
        label_names=label_names,
        notes=entry.adaptations,
        captions=entry.captions[here] if has_captions else None,
        credit=CREDITS.get(table.source),
    )


def _stamp(table: Table) -> Any:
    """Sizes and times of local files, by which changes are detected."""
    if not table.local:
        return None
    files = _files(table)
    return [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]


def _files(table: Table) -> list[Path]:
    """The files of a local table."""
    path = Path(table.path)
    return [path] if path.is_file() else sorted(path.rglob("*.parquet"))


def _labels(
    values: tuple[int | str | None, ...], names: list[str] | None
) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    if names is not None:
        return torch.tensor([-1 if v is None else v for v in values]), tuple(names)
    classes = class_names(v for v in values if v is not None)
    return (index_labels(values, classes), classes) if classes else (None, ())


class _Rows:
    """The rows of a table, opened on first use.

    Args:
        table: where from.
        validation: as `nelbo.data.load_data`.
    """

    def __init__(self, table: Table, validation: bool) -> None:
        self.table, self.validation = table, validation

    @cached_property
    def splits(self) -> Mapping[str, Any]:
        """The rows of each split, by the name in the table."""
        with _explained(self.table):
            return _open(self.table)

    @cached_property
    def parts(self) -> Parts:
        """The assignment of the table's splits to train, validation and test."""
        return Parts.of(self.table, list(self.splits), self.validation)

    @cached_property
    def columns(self) -> Mapping[str, str]:
        """The columns for image, label and caption."""
        return columns_of(self.table, self.splits[self.parts.train])

    @cached_property
    def class_names(self) -> list[str] | None:
        """The names of the classes, where the type of the label column has any."""
        return class_names_of(self.splits[self.parts.train], self.columns)

    def rows(self, part: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """The rows of a split of the table, pictures as bytes, each with its name and its split."""
        rows = _undecoded(self.splits[part], self.columns["image"])
        most = self.table.max_images if self.table.stream is None else None
        for i, row in enumerate(islice(rows, most)):
            yield f"{part} #{i}", self.parts.split_of(part, i), row

    def split(self, names: Sequence[str]) -> list[str]:
        """The split of each readable row; an empty split takes the row of least u."""
        of_each = [self.parts.split_of(*_place(name)) for name in names]
        for part, carved in (
            (TEST, self.parts.test is None),
            (VALIDATION, self.parts.carves and self.parts.validation is None),
        ):
            of_each = fill_split(names, of_each, part) if carved else of_each
        return of_each


def _place(name: str) -> tuple[str, int]:
    """The split and index in the name of a row."""
    part, _, number = name.rpartition(" #")
    return part, int(number)


def _decoded(
    table: Table,
    size: Size,
    channels: int,
    exact: bool,
    source: _Rows,
    extra: dict[str, Any],
    background: str,
) -> Iterator[Picture]:
    parts, columns, names = source.parts, source.columns, source.class_names
    if parts.note is not None:
        extra["split_note"] = parts.note
    if names is not None:
        extra["label_names"] = names

    def read(item: tuple[str, str, Mapping[str, Any]]) -> list[Picture]:
        name, split, row = item
        label, notes = label_of(row.get(columns.get("label", "")))
        caption, first = caption_of(row.get(columns.get("caption", "")))
        notes += first
        if names is not None and label == -1:
            label = None
        found = _read(row[columns["image"]], size, channels, background, table.crops, name)
        if exact and not isinstance(found, str):
            check_size(f"{table.source}, {name}", found[0].size, size)
        whole = Picture(name, "", split, label, caption, notes=notes)
        return kept_crops(whole, found, table.crops)

    with _explained(table):
        rows = chain.from_iterable(map(source.rows, parts.names))
        for pictures in in_threads(rows, read, total=None, size=size):
            yield from pictures


def _streamed(
    table: Table,
    size: Size,
    channels: int,
    label_names: tuple[str, ...],
    validation: bool,
    held: Collection[str],
    background: str,
) -> ImageStream:
    """The training rows, epoch after epoch, without those held out for another split."""
    index = {name: i for i, name in enumerate(label_names)}

    def rows() -> Iterator[StreamedRow]:
        source = _Rows(table, validation)
        with _explained(table):
            columns = source.columns
            for called, split, row in source.rows(source.parts.train):
                if split != TRAIN or called in held:
                    continue
                label, _ = label_of(row.get(columns.get("label", "")))
                if source.class_names is None and label is not None:
                    label = index.get(name_of(label))
                picture = row[columns["image"]]
                yield StreamedRow(
                    called,
                    label if isinstance(label, int) else -1,
                    partial(_read_one, picture, size, channels, background),
                )

    assert table.stream is not None
    return ImageStream(rows, table.stream)


def _read(
    value: Any, size: Size, channels: int, background: str, crops: int = 1, name: str = ""
) -> list[Decoded] | str:
    """Decode {"bytes": …, "path": …}, as the format stores pictures, or give the reason why not."""
    value = value if isinstance(value, Mapping) else {"bytes": value}
    content, path = value.get("bytes"), value.get("path")
    if not (content or path):
        return "the row holds no picture"
    if content and not isinstance(content, bytes):
        return f"the row holds a value of type {type(content).__name__}, no picture"
    file = io.BytesIO(content) if content else Path(path)
    return read_crops(file, size, channels, crops, name, background=background)


def _read_one(value: Any, size: Size, channels: int, background: str) -> np.ndarray | str:
    """The pixels of a picture, or the reason why it cannot be read."""
    found = _read(value, size, channels, background)
    return found if isinstance(found, str) else found[0].pixels


def _open(table: Table) -> Mapping[str, Any]:
    """The splits by name."""
    datasets = optional("datasets", f"reading {table.source}", "hub")
    batches: dict[str, int] = {}
    if table.local:
        pattern = glob.escape(table.path)  # which paths are to datasets
        # Its own batches are row groups, of which one without rows is an error.
        if Path(table.path).is_file():
            return datasets.load_dataset(
                "parquet", data_files={"train": pattern}, streaming=True, batch_size=_BATCH
            )
        batches = {"batch_size": _BATCH} if any(map(_is_empty, _files(table))) else {}
        if pattern != table.path:
            return datasets.load_dataset("parquet", data_dir=pattern, streaming=True, **batches)
    return datasets.load_dataset(
        table.path,
        table.options.get("config"),
        revision=table.options.get("revision"),
        # Local files are read in place; those of the Hub are downloaded whole, except where not
        # all of them are read, or in turn.
        streaming=table.local or (table.max_images or table.stream) is not None,
        **batches,
    )


def _is_empty(file: Path) -> bool:
    """Whether a parquet file, such as a shard of a table, holds no rows."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        return read_metadata(file).num_rows == 0
    except ArrowException:  # damaged, which reading it reports
        return False


def _undecoded(rows: Any, column: str) -> Iterable[Any]:
    """The rows with pictures as bytes: nelbo decodes them in its own threads."""
    import datasets

    if isinstance(rows.features[column], datasets.Image):
        return rows.cast_column(column, datasets.Image(decode=False))
    return rows


@contextmanager
def _explained(table: Table) -> Iterator[None]:
    try:
        yield
    except (NelboError, GeneratorExit):
        raise
    # datasets raises the errors of many libraries; the type separates network errors from others.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, ConnectionError) or "timed out" in reason.lower():
            raise NelboError(
                f"cannot reach the Hub for {table.source}: {reason}. Check the network, or give "
                "parquet files or a folder of pictures"
            ) from error
        raise NelboError(f"{table.source} cannot be read: {reason}") from error
