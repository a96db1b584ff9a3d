"""The lines of metadata.jsonl and metadata.csv, as the Hub's imagefolder has them.

    {"file_name": "a.png", "text": "a cat", "label": "cat"}
    file_name,text,label

`caption` and `prompt` are synonyms of `text`; of a list of captions the first is used.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError, explained
from nelbo.data.labels import Label, as_label, is_blank
from nelbo.data.names import Names

CAPTION_FIELDS = ("text", "caption", "prompt")
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Row:
    """A line of metadata.

    Attributes:
        where: the file and the line.
        line: its number.
        name: name of the picture, as written.
        fields: all fields of the line.
    """

    where: str
    line: int
    name: str
    fields: Mapping[str, Any]

    def caption(self) -> tuple[str | None, bool]:
        """The caption, and whether it is the first of several.

        Raises:
            NelboError: it is no text, or two fields have different ones.
        """
        given: dict[str, tuple[str, bool]] = {}
        for field in CAPTION_FIELDS:
            value = self.fields.get(field)
            if isinstance(value, list) and all(isinstance(text, str) for text in value):
                texts = [text for text in value if not is_blank(text)]
                if texts:
                    given[field] = _whole(texts[0]), len(texts) > 1
            elif isinstance(value, str):
                given[field] = _whole(value), False
            elif value is not None:
                raise NelboError(f"{self.where} has {field} {value!r}; expected a string")
        if len({text for text, _ in given.values()}) > 1:
            found = " and ".join(f"{field} {text!r}" for field, (text, _) in given.items())
            raise NelboError(f"{self.where} has {found}: keep one")
        return next(iter(given.values()), (None, False))

    def label(self) -> Label | None:
        """The class.

        Raises:
            NelboError: it is neither a string nor a whole number.
        """
        value = self.fields.get("label")
        label = as_label(value)
        if label is None and value is not None:
            raise NelboError(
                f"{self.where} has label {value!r}; expected a string or a whole number"
            )
        return _whole(label) if isinstance(label, str) else label


def rows(path: Path) -> Iterator[Row]:
    """The lines of a file.

    Raises:
        NelboError: one that cannot be read, or that names no picture.
    """
    return _csv_rows(path) if path.suffix == ".csv" else _json_rows(path)


def named_rows(folder: Path, file: str, known: Names) -> list[tuple[Row, str | None]]:
    """The lines of a file, each with the picture that it names; None where that is unknown.

    Args:
        folder: of the pictures.
        file: the path below it, whose own folder names are relative to.
        known: the pictures.

    Raises:
        NelboError: as `rows`, or a name that is ambiguous.
    """
    prefix = file[: file.rfind("/") + 1]
    return [(row, known.find(row.name, row.where, prefix)) for row in rows(folder / file)]


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        NelboError: it cannot be read, or not as UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NelboError(f"{path} is not readable as UTF-8: {error}") from error
    except OSError as error:
        raise NelboError(f"{path} cannot be read: {error.strerror or error}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a file; errors as `read_text`."""
    # Not splitlines: captions may hold the other separators of Unicode.
    return read_text(path).replace("\r\n", "\n").removesuffix("\n").split("\n")


def _json_rows(path: Path) -> Iterator[Row]:
    for i, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {i},"
        with explained(f"{where} is not readable as JSON", ValueError, RecursionError):
            fields = json.loads(line)
        if not isinstance(fields, dict):
            raise NelboError(f"{where} must hold a JSON object, found {type(fields).__name__}")
        yield _row(where, i, fields)


def _csv_rows(path: Path) -> Iterator[Row]:
    lines = list(io.StringIO(read_text(path), newline=""))
    delimiter = next((d for d in _DELIMITERS if "file_name" in _header(lines, d)), ",")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if "file_name" not in header:
            raise NelboError(
                f"{path}, line 1, has no column file_name; found {', '.join(header) or 'nothing'}"
            )
        last = reader.line_num
        for values in reader:
            where, line, last = f"{path}, line {last + 1},", last + 1, reader.line_num
            if not values:
                continue
            if len(values) != len(header):
                raise NelboError(
                    f"{where} has {len(values)} fields, the header {len(header)}: put texts with "
                    f"{delimiter!r} in quotes"
                )
            stripped = (value.strip() for value in values)
            yield _row(where, line, dict(zip(header, stripped, strict=True)))
    except csv.Error as error:
        raise NelboError(f"{path}, line {reader.line_num}, is not readable: {error}") from error


def _header(lines: Sequence[str], delimiter: str) -> list[str]:
    return [name.strip().strip('"') for name in lines[0].split(delimiter)] if lines else []


def _whole(text: str) -> str:
    """The text with a mark in place of half a character, as the escape "\\ud83d" alone is one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _row(where: str, line: int, fields: Mapping[str, Any]) -> Row:
    name = fields.get("file_name")
    if not isinstance(name, str) or is_blank(name):
        raise NelboError(f"{where} has file_name {name!r}; expected the name of a picture")
    given = {field: value for field, value in fields.items() if not is_blank(value)}
    return Row(where, line, name, given)
