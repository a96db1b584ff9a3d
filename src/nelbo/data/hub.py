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

import io
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nelbo.base.errors import MissingExtraError, NelboError
from nelbo.data.cache import Picture, cached, check_size
from nelbo.data.credits import CREDITS
from nelbo.data.crops import base_of, crop_names, settle_crops
from nelbo.data.declared import TEST_FOLDERS, VALIDATION_FOLDERS
from nelbo.data.decode import Decoded, in_threads, read_crops
from nelbo.data.image_data import ImageData
from nelbo.data.labels import Label, as_label, class_names, index_labels, name_of
from nelbo.data.size import Size
from nelbo.data.splits import ALL, TEST, TRAIN, VALIDATION, EmptySplitError, fill_split
from nelbo.data.stream import ImageStream, StreamedRow

LEVELS = 256
# The number of images of each split of a streamed set that are kept for evaluation.
_KEPT = 2000
OPTIONS = (
    *("config", "revision", "train", "validation", "test", "image", "label", "caption"),
    *("max_images", "stream", "crops"),
)
_IMAGE_COLUMNS = ("image", "img", "picture", "photo", "png", "jpg", "jpeg", "webp")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
_SEVERAL_CAPTIONS = "several captions: the first is taken"
_NO_CLASS = "a label that is neither a string nor a whole number: no class"
_CAPTION_COLUMNS = ("text", "caption", "captions", "txt", "prompt")


@dataclass(frozen=True)
class Table:
    """Where rows come from.

    Attributes:
        source: what the user typed.
        path: a Hub id, a parquet file, or a folder of them.
        options: see the module; any of `OPTIONS`.

    Raises:
        NelboError: an unknown option, or a max_images that is no number.
    """

    source: str
    path: str
    options: Mapping[str, str]

    def __post_init__(self) -> None:
        for name in self.options:
            if name not in OPTIONS:
                raise NelboError(
                    f"{self.source}: unknown option {name!r}; expected one of {', '.join(OPTIONS)}"
                )
        for name in ("max_images", "stream", "crops"):
            if self._number(name) == 0:
                raise NelboError(f"{self.source}: {name} must be at least 1")
        if self.stream is not None and self.crops > 1:
            raise NelboError(f"{self.source}: a stream gives each row once: leave crops out")

    @property
    def max_images(self) -> int | None:
        """The largest number of images of each split; None for all."""
        return self._number("max_images")

    @property
    def stream(self) -> int | None:
        """The size of the shuffle buffer, in rows, if training streams the set; otherwise None."""
        return self._number("stream")

    @property
    def crops(self) -> int:
        """How many crops a row to train on gives."""
        return self._number("crops") or 1

    def kept(self) -> Table:
        """The rows of a streamed set that are decoded into the cache."""
        options = {"max_images": str(_KEPT), **self.options}
        del options["stream"]
        return replace(self, options=options)

    def _number(self, name: str) -> int | None:
        text = self.options.get(name)
        if text is None:
            return None
        if not text.isdecimal():
            raise NelboError(f"{self.source}: {name} is {text!r}; expected a whole number")
        return int(text)

    @property
    def local(self) -> bool:
        """Whether it lies on this machine."""
        return Path(self.path).exists()


def load_table(
    table: Table,
    split: str,
    size: Size,
    channels: int,
    *,
    validation: bool = True,
    resize: bool = True,
) -> ImageData:
    """The pictures of one split, cut and resized; arguments as `nelbo.data.load_data`.

    Raises:
        MissingExtraError: datasets is not installed.
        NelboError: the Hub cannot be reached, the data set, a split or a column is not there, no
            picture can be read, or one is of another size without `resize`.
    """
    if table.stream is not None:
        kept = table.kept()
        data = load_table(kept, split, size, channels, validation=validation, resize=resize)
        if split != TRAIN:
            return data
        every = load_table(kept, ALL, size, channels, validation=validation, resize=resize)
        held = {
            base_of(name, table.crops)
            for name, part in zip(every.names, every.splits or (), strict=True)
            if part != TRAIN
        }
        stream = _streamed(table, size, channels, data.label_names, validation, held)
        return replace(data, stream=stream)
    extra: dict[str, Any] = {}
    exact = not resize and table.crops == 1
    rows = _Rows(table, validation)
    entry = cached(
        ("table", str(Path(table.path).resolve()) if table.local else table.path, validation),
        [sorted(table.options.items()), _stamp(table)],
        (channels, *size),
        lambda: _decoded(table, size, channels, exact, rows, extra),
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
    return ImageData(
        source=table.source,
        images=entry.images[here],
        pixel_keys=entry.pixel_keys[here],
        levels=LEVELS,
        names=entry.names[here],
        splits=entry.splits_of(split),
        split_note=entry.extra.get("split_note"),
        labels=None if labels is None else labels[here],
        label_names=label_names,
        skipped=entry.skipped_of(split),
        notes=entry.notes_of(split),
        captions=entry.captions[here] if has_captions else None,
        credit=CREDITS.get(table.source),
    )


def _stamp(table: Table) -> Any:
    """Sizes and times of local files, by which changes are detected."""
    if not table.local:
        return None
    path = Path(table.path)
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    return [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]


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
    def parts(self) -> _Parts:
        """The assignment of the table's splits to train, validation and test."""
        return _Parts.of(self.table, list(self.splits), self.validation)

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
) -> Iterator[Picture]:
    splits, parts = source.splits, source.parts
    columns = _columns(table, splits[parts.train])
    names = _class_names(splits[parts.train], columns)
    if parts.note is not None:
        extra["split_note"] = parts.note
    if names is not None:
        extra["label_names"] = names

    def rows() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        for name in parts.names:
            chosen: Iterable[Any] = _undecoded(splits[name], columns["image"])
            for i, row in enumerate(islice(chosen, table.max_images)):
                yield f"{name} #{i}", parts.split_of(name, i), row

    def read(item: tuple[str, str, Mapping[str, Any]]) -> list[Picture]:
        name, split, row = item
        label, notes = _label(row.get(columns.get("label", "")))
        caption, first = _caption(row.get(columns.get("caption", "")))
        notes += first
        if names is not None and label == -1:
            label = None
        found = _read(row[columns["image"]], size, channels, table.crops, name)
        if isinstance(found, str):
            return [Picture(name, found, split)]
        if exact:
            check_size(f"{table.source}, {name}", found[0].size, size)
        taken = found if split == TRAIN else found[:1]
        return [
            Picture(called, crop.pixels, split, label, caption, crop.size, (*crop.notes, *notes))
            for called, crop in zip(crop_names(name, table.crops, len(taken)), taken, strict=True)
        ]

    with _explained(table):
        for pictures in in_threads(rows(), read, total=None, size=size):
            yield from pictures


def _streamed(
    table: Table,
    size: Size,
    channels: int,
    label_names: tuple[str, ...],
    validation: bool,
    held: Collection[str],
) -> ImageStream:
    """The training rows, epoch after epoch, without those held out for another split."""
    kept, index = table.kept(), {name: i for i, name in enumerate(label_names)}

    def rows() -> Iterator[StreamedRow]:
        with _explained(table):
            splits = _open(kept)
            parts = _Parts.of(table, list(splits), validation)
            columns = _columns(table, splits[parts.train])
            names = _class_names(splits[parts.train], columns)
            for i, row in enumerate(_undecoded(splits[parts.train], columns["image"])):
                called = f"{parts.train} #{i}"
                if parts.split_of(parts.train, i) != TRAIN or called in held:
                    continue
                label, _ = _label(row.get(columns.get("label", "")))
                if names is None and label is not None:
                    label = index.get(name_of(label))
                picture = row[columns["image"]]
                yield StreamedRow(
                    called,
                    label if isinstance(label, int) else -1,
                    partial(_read_one, picture, size, channels),
                )

    assert table.stream is not None
    return ImageStream(rows, table.stream)


def _read(
    value: Any, size: Size, channels: int, crops: int = 1, name: str = ""
) -> list[Decoded] | str:
    """Decode {"bytes": …, "path": …}, as the format stores pictures, or give the reason why not."""
    value = value if isinstance(value, Mapping) else {"bytes": value}
    if not (value.get("bytes") or value.get("path")):
        return "the row holds no picture"
    file = io.BytesIO(value["bytes"]) if value.get("bytes") else Path(value["path"])
    return read_crops(file, size, channels, crops, name)


def _read_one(value: Any, size: Size, channels: int) -> np.ndarray | str:
    """The pixels of a picture, or the reason why it cannot be read."""
    found = _read(value, size, channels)
    return found if isinstance(found, str) else found[0].pixels


def _open(table: Table) -> Mapping[str, Any]:
    """The splits by name."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"reading {table.source}", "hub") from error
    if table.local and Path(table.path).is_file():
        return datasets.load_dataset(
            "parquet", data_files={"train": table.path}, streaming=True
        )  # fmt: skip
    return datasets.load_dataset(
        table.path,
        table.options.get("config"),
        revision=table.options.get("revision"),
        # Local files are read in place; those of the Hub are downloaded whole, except with
        # max_images.
        streaming=table.local or table.max_images is not None,
    )


@dataclass(frozen=True)
class _Parts:
    """The names of a table's splits; a missing split is taken from the rows of train.

    Attributes:
        train: name of the training split.
        validation: name of the validation split, or None.
        test: name of the test split, or None.
        carves: whether there is a validation split, if need be from rows of train.
        note: a line on how splits were assigned, if their names leave it open.
    """

    train: str
    validation: str | None
    test: str | None
    carves: bool
    note: str | None = None

    @classmethod
    def of(cls, table: Table, names: list[str], validation: bool) -> _Parts:
        """Assign splits by the options, or else by their names.

        Raises:
            NelboError: an option names an unknown split.
        """
        for option in (TRAIN, VALIDATION, TEST):
            wanted = table.options.get(option)
            if wanted is not None and wanted not in names:
                raise NelboError(
                    f"{table.source} has no split {wanted!r}; it has {', '.join(names)}"
                )
        default = "train" if "train" in names else names[0]
        train = table.options.get(TRAIN, default)
        chosen = table.options.get(VALIDATION)
        free = [name for name in names if name not in (train, chosen)]
        declared = [name for name in VALIDATION_FOLDERS if name in free]
        test = table.options.get(TEST)
        if test is None:
            named = [name for name in TEST_FOLDERS if name in free]
            test = next(iter([*named, *declared]), None)
        if not validation:
            return cls(train, None, test, carves=False)
        found = chosen or next((name for name in declared if name != test), None)
        note = None
        if test in VALIDATION_FOLDERS and TEST not in table.options:
            note = (
                f"there is no split test: {test} is the test split, and every tenth row "
                f"of {train} is for validation; with ?validation={test} it is the validation "
                f"split, and every tenth row of {train} is for test"
            )
        return cls(train, found, test, carves=True, note=note)

    @property
    def names(self) -> tuple[str, ...]:
        """The names whose rows are read, each once."""
        found = (self.train, self.validation, self.test)
        return tuple(dict.fromkeys(name for name in found if name is not None))

    def split_of(self, name: str, i: int) -> str:
        """The split of a row."""
        if name == self.test:
            return TEST
        if name == self.validation:
            return VALIDATION
        if self.test is None and i % 10 == 9:
            return TEST
        is_eighth = self.carves and self.validation is None and i % 10 == 8
        return VALIDATION if is_eighth else TRAIN


def _columns(table: Table, rows: Any) -> dict[str, str]:
    """The columns for image, label and caption: by option, or else by type and name."""
    features = rows.features or {}
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    found = {
        "image": [name for name in kinds if kinds[name] == "Image"]
        + [name for name in _IMAGE_COLUMNS if name in kinds],
        "label": [name for name in _LABEL_COLUMNS if name in kinds]
        + [name for name in kinds if kinds[name] == "ClassLabel"],
        "caption": [name for name in _CAPTION_COLUMNS if _is_text(features.get(name))],
    }
    columns = {kind: names[0] for kind, names in found.items() if names}
    for kind in found:
        wanted = table.options.get(kind)
        if wanted is not None and wanted not in kinds:
            raise NelboError(f"{table.source} has no column {wanted!r}; it has {', '.join(kinds)}")
        if wanted is not None:
            columns[kind] = wanted
    if "image" not in columns:
        raise NelboError(
            f"{table.source} has no column of pictures among {', '.join(kinds)}; name it with "
            "?image=COLUMN"
        )
    return columns


def _is_text(feature: Any) -> bool:
    """Whether a column holds texts, or lists of them."""
    of_list = feature[0] if isinstance(feature, list) and feature else feature
    element = getattr(of_list, "feature", of_list)
    return getattr(element, "dtype", None) in ("string", "large_string")


def _caption(value: Any) -> tuple[str | None, tuple[str, ...]]:
    """A text, or the first of several with a note."""
    if not isinstance(value, list):
        return (value if isinstance(value, str) else None), ()
    texts = [text for text in value if isinstance(text, str)]
    notes = (_SEVERAL_CAPTIONS,) if len(texts) > 1 else ()
    return (texts[0] if texts else None), notes


def _label(value: Any) -> tuple[Label | None, tuple[str, ...]]:
    """A class; for a value of another type None, with a note."""
    label = as_label(value)
    nothing = value is None or (isinstance(value, float) and math.isnan(value))
    return label, () if nothing or label is not None else (_NO_CLASS,)


def _class_names(rows: Any, columns: Mapping[str, str]) -> list[str] | None:
    names = getattr((rows.features or {}).get(columns.get("label")), "names", None)
    return None if names is None else list(names)


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
