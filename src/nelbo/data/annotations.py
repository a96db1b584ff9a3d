"""What a folder says about its pictures: captions and labels.

metadata.jsonl    a line a picture: {"file_name": "a.png", "text": "a cat", "label": "cat"};
                  `caption` does as well as `text`; names are relative to the file's folder
captions.txt      a line a picture: name<TAB>caption, or captions alone, in the order of the
                  sorted files; at the top of the folder
cat/ dog/         where every picture lies in one of several folders, its folder is its class
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.errors import NelboError

CAPTIONS = "captions.txt"
_CAPTION_FIELDS = ("text", "caption")

Label = str | int


@dataclass(frozen=True)
class Annotations:
    """Captions and labels by the name of the picture, and the lines that are of none."""

    captions: Mapping[str, str]
    labels: Mapping[str, Label]
    unmatched: tuple[str, ...] = ()

    def captions_of(self, names: Sequence[str]) -> tuple[str | None, ...] | None:
        """The caption of each picture; None where no picture has one."""
        return tuple(self.captions.get(name) for name in names) if self.captions else None

    def labels_of(self, names: Sequence[str]) -> tuple[Tensor | None, tuple[str, ...]]:
        """The class of each picture, −1 where it has none, and the names of the classes."""
        if not self.labels:
            return None, ()
        classes = sort_classes(set(self.labels.values()))
        index = {label: i for i, label in enumerate(classes)}
        of_each = [index.get(self.labels.get(name), -1) for name in names]  # type: ignore[arg-type]
        return torch.tensor(of_each, dtype=torch.int64), tuple(str(label) for label in classes)


def sort_classes(labels: set[Label]) -> list[Label]:
    """Classes in the order of their numbers; numbers as numbers, names by the alphabet."""
    if all(isinstance(label, int) for label in labels):
        return sorted(labels)
    return sorted(labels, key=str)


def read_annotations(
    folder: Path, names: Sequence[str], metadata: Sequence[str], depth: int, *, strict: bool = True
) -> Annotations:
    """What the files and folders say about the pictures called `names`.

    Args:
        folder: the root.
        names: paths of the pictures below it, sorted.
        metadata: paths of the metadata.jsonl files below it.
        depth: how many folders of a path stand above its class.
        strict: a line that names no picture is an error, rather than one of `unmatched`.

    Raises:
        NelboError: a line that cannot be read, or, where strict, that names no picture; too many or
            too few captions; captions in two places.
    """
    captions: dict[str, str] = {}
    labels: dict[str, Label] = {}
    unmatched: list[str] = []
    known = set(names)
    for file in metadata:
        prefix = file[: file.rfind("/") + 1]
        rows = list(_rows(folder / file, prefix))
        strays = [row for row in rows if row.name not in known]
        if strays and strict:
            name = strays[0].name.removeprefix(prefix)
            pictures = sum(name.startswith(prefix) for name in names)
            raise NelboError(
                f"{strays[0].where} names {name!r}, which is no picture of "
                f"{folder / prefix}; it has {len(rows)} lines for {pictures} pictures, "
                f"{len(strays)} of them for none: take these out or bring the pictures back"
            )
        unmatched += [f"{file}, line {row.line}: {row.name}" for row in strays]
        for row in rows:
            caption, label = _caption(row.where, row.fields), _label(row.where, row.fields)
            if caption is not None and row.name in known:
                captions[row.name] = caption
            if label is not None and row.name in known:
                labels[row.name] = label
    if (folder / CAPTIONS).is_file():
        if captions:
            raise NelboError(f"{folder} has captions in {metadata[0]} and in {CAPTIONS}; keep one")
        captions, of_none = _captions_file(folder / CAPTIONS, names, strict=strict)
        unmatched += of_none
    return Annotations(captions, labels or _folder_classes(names, depth), tuple(unmatched))


@dataclass(frozen=True)
class _Row:
    """A line of a metadata.jsonl: where it is, in words and by number, its picture and fields."""

    where: str
    line: int
    name: str
    fields: Mapping[str, Any]


def _rows(path: Path, prefix: str) -> Iterator[_Row]:
    for i, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {i},"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise NelboError(f"{where} is not readable as JSON: {error}") from error
        if not isinstance(row, dict):
            raise NelboError(f"{where} must hold a JSON object, found {type(row).__name__}")
        yield _Row(where, i, prefix + _file_name(where, row), row)


def _file_name(where: str, row: Mapping[str, Any]) -> str:
    name = row.get("file_name")
    if not isinstance(name, str):
        raise NelboError(f"{where} has file_name {name!r}; expected the name of a picture")
    return name.removeprefix("./")


def _caption(where: str, row: Mapping[str, Any]) -> str | None:
    for field in _CAPTION_FIELDS:
        value = row.get(field)
        if isinstance(value, str):
            return value
        if value is not None:
            raise NelboError(f"{where} has {field} {value!r}; expected a string")
    return None


def _label(where: str, row: Mapping[str, Any]) -> Label | None:
    label = row.get("label")
    if label is None or (isinstance(label, str | int) and not isinstance(label, bool)):
        return label
    raise NelboError(f"{where} has label {label!r}; expected a string or a whole number")


def _captions_file(
    path: Path, names: Sequence[str], *, strict: bool
) -> tuple[dict[str, str], list[str]]:
    """The captions by name, and the lines that are of no picture."""
    lines = _lines(path)
    filled = [line for line in lines if line.strip()]
    if filled and all("\t" in line for line in filled):
        return _named_captions(path, lines, names, strict=strict)
    if len(lines) != len(names):
        shorter = min(len(lines), len(names))
        first = (
            f"the first picture without a line is {names[shorter]}"
            if len(lines) < len(names)
            else f"the first line without a picture is {lines[shorter]!r}"
        )
        raise NelboError(
            f"{path} has {len(lines)} lines for {len(names)} pictures; {first}. Expected one "
            "caption a line in the order of the sorted files, or name<TAB>caption"
        )
    pairs = zip(names, lines, strict=True)
    return {name: line.strip() for name, line in pairs if line.strip()}, []


def _named_captions(
    path: Path, lines: Sequence[str], names: Sequence[str], *, strict: bool
) -> tuple[dict[str, str], list[str]]:
    """Captions by the name of the picture, and the lines that are of none."""
    said: dict[str, str] = {}
    of_none: list[str] = []
    known = set(names)
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, caption = line.split("\t", 1)
        if name in said:
            raise NelboError(
                f"{path}, line {i}, has another caption for {name!r}: keep one for each picture"
            )
        said[name] = caption.strip()
        if name not in known:
            of_none.append(f"{path.name}, line {i}: {name}")
    strays = [name for name in said if name not in known]
    if strays and strict:
        raise NelboError(
            f"{path} has captions for {len(said)} pictures, the folder {len(names)} "
            f"pictures; the first caption without a picture is of {strays[0]!r}"
        )
    return {name: caption for name, caption in said.items() if name in known}, of_none


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise NelboError(f"{path} is not readable as UTF-8: {error}") from error
    except OSError as error:
        raise NelboError(f"{path} cannot be read: {error.strerror or error}") from error
    # Not splitlines: captions may hold the other separators of Unicode.
    return text.removesuffix("\n").replace("\r\n", "\n").split("\n")


def _folder_classes(names: Sequence[str], depth: int) -> dict[str, Label]:
    paths = {name: name.split("/") for name in names}
    if any(len(path) < depth + 2 for path in paths.values()):
        return {}
    classes = {name: path[depth] for name, path in paths.items()}
    return dict(classes) if len(set(classes.values())) > 1 else {}
