"""Captions and labels of the pictures in a folder.

metadata.jsonl    a line a picture, and metadata.csv likewise, in any folder; see `metadata`
captions.txt      a line a picture: name<TAB>caption, or captions alone, in the order of the
                  sorted files; at the top of the folder
a.txt, a.caption  beside a.png, its caption: the first line
cat/ dog/         if every readable picture lies in one of several folders, its folder is its class
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.data.labels import Label, class_names, index_labels, name_of
from nelbo.data.listing import CAPTIONS, Listing, stem_of
from nelbo.data.metadata import Row, named_rows, read_lines
from nelbo.data.names import Names, printable


@dataclass(frozen=True)
class Annotations:
    """Captions and labels by the name of the picture.

    Attributes:
        captions: of each picture that has one.
        labels: class of each picture that has one.
        unmatched: lines that match no picture.
        notes: how annotations were adapted.
    """

    captions: Mapping[str, str]
    labels: Mapping[str, Label]
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def captions_of(self, names: Sequence[str]) -> tuple[str | None, ...] | None:
        """The caption of each picture; None where no picture has one."""
        return tuple(self.captions.get(name) for name in names) if self.captions else None

    def labels_of(self, names: Sequence[str]) -> tuple[Tensor | None, tuple[str, ...]]:
        """The class of each picture, −1 where it has none, and the names of the classes."""
        if not self.labels:
            return None, ()
        classes = class_names(self.labels.values())
        return index_labels([self.labels.get(name) for name in names], classes), tuple(
            map(printable, classes)
        )


def read_annotations(
    listing: Listing, readable: Sequence[str], depth: int, *, strict: bool = True
) -> Annotations:
    """Read the captions and labels of the pictures in a folder.

    Args:
        listing: the folder.
        readable: the pictures that can be read, whose folders may be classes.
        depth: number of folders above the class in a path.
        strict: raise an error for a line that matches no picture; otherwise add it to `unmatched`.

    Raises:
        NelboError: a line that cannot be read, or, where strict, that names no picture; too many or
            too few captions; two captions or labels of one picture.
    """
    found = _Collected(listing, strict)
    for file in listing.metadata:
        found.take_metadata(file)
    if (listing.folder / CAPTIONS).is_file():
        found.take_captions_file()
    for file in listing.sidecars:
        found.take_sidecar(file)
    labels: Mapping[str, Label] = found.values["label"]
    notes = found.notes()
    if not labels:
        labels, why = _folder_classes(readable, depth)
        notes += why
    return Annotations(found.values["caption"], labels, tuple(found.unmatched), notes)


@dataclass
class _Collected:
    """Captions and labels with the places they were found at, to detect duplicates."""

    listing: Listing
    strict: bool
    values: dict[str, dict[str, Any]] = field(default_factory=lambda: {"caption": {}, "label": {}})
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    several: int = 0

    def __post_init__(self) -> None:
        listing = self.listing
        self.pictures = [file.name for file in listing.files]
        # The caption of an unreadable file is no stray.
        self.known = Names(listing.folder, [*self.pictures, *listing.unreadable, *listing.others])

    def put(self, kind: str, name: str, value: Label, where: str) -> None:
        """Keep the caption or label of a picture."""
        earlier = self.values[kind].get(name)
        if earlier is not None and name_of(earlier) != name_of(value):
            before = self.places[kind, name].rstrip(",")
            raise NelboError(
                f"{where} has the {kind} {value!r} of {name!r}, and {before} has {earlier!r}: keep "
                "one for each picture"
            )
        if earlier is None:
            self.values[kind][name], self.places[kind, name] = value, where

    def take_metadata(self, file: str) -> None:
        """A metadata.jsonl or metadata.csv."""
        prefix = file[: file.rfind("/") + 1]
        every = named_rows(self.listing.folder, file, self.known)
        strays = [row for row, name in every if name is None]
        if strays and self.strict:
            raise self._stray(strays, len(every), prefix)
        self.unmatched += [f"{file}, line {row.line}: {prefix}{row.name}" for row in strays]
        for row, name in every:
            caption, first = row.caption()
            label = row.label()
            if name is None:
                continue
            if caption is not None:
                self.several += first
                self.put("caption", name, caption, row.where)
            if label is not None:
                self.put("label", name, label, row.where)

    def take_captions_file(self) -> None:
        """The captions.txt at the top."""
        folder, path = self.listing.folder, self.listing.folder / CAPTIONS
        if self.values["caption"]:
            raise NelboError(
                f"{folder} has captions in {self.listing.metadata[0]} and in {CAPTIONS}; keep one"
            )
        lines = read_lines(path)
        filled = [line for line in lines if line.strip()]
        if filled and all("\t" in line for line in filled):
            self._take_named(path, lines)
            return
        if len(lines) != len(self.pictures):
            raise _other_number(path, lines, self.pictures)
        for i, (name, line) in enumerate(zip(self.pictures, lines, strict=True), 1):
            if line.strip():
                self.put("caption", name, line.strip(), f"{path}, line {i},")

    def take_sidecar(self, file: str) -> None:
        """The caption of one picture, or of those that differ from it in their suffix alone."""
        path = self.listing.folder / file
        filled = [line.strip() for line in read_lines(path) if line.strip()]
        self.several += len(filled) > 1
        for name in self._beside.get(stem_of(file), ()) if filled else ():
            self.put("caption", name, filled[0], str(path))

    def notes(self) -> tuple[str, ...]:
        """How annotations were adapted."""
        if not self.several:
            return ()
        pictures = "1 picture has" if self.several == 1 else f"{self.several:,} pictures have"
        return (f"{pictures} several captions, of which the first is taken",)

    @property
    def _beside(self) -> Mapping[str, list[str]]:
        """The pictures by their names without the suffix."""
        if not self._stems:
            for name in self.pictures:
                self._stems.setdefault(stem_of(name), []).append(name)
        return self._stems

    _stems: dict[str, list[str]] = field(default_factory=dict)

    def _take_named(self, path: Path, lines: Sequence[str]) -> None:
        """Lines of name<TAB>caption."""
        lines_of: dict[str, str] = {}
        strays = []
        for i, line in enumerate(lines, 1):
            if not line.strip():
                continue
            written, caption = line.split("\t", 1)
            where = f"{path}, line {i},"
            name = self.known.find(written, where)
            if (name or written) in lines_of:
                raise NelboError(
                    f"{where} has another caption for {written!r}, beside line "
                    f"{lines_of[name or written]}: keep one for each picture"
                )
            lines_of[name or written] = str(i)
            if name is None:
                strays.append(written)
                self.unmatched.append(f"{path.name}, line {i}: {written}")
            elif caption.strip():
                self.put("caption", name, caption.strip(), where)
        if strays and self.strict:
            raise NelboError(
                f"{path} has captions for {len(lines_of)} pictures, the folder "
                f"{len(self.pictures)} pictures; the first caption without a picture is of "
                f"{strays[0]!r}"
            )

    def _stray(self, strays: Sequence[Row], lines: int, prefix: str) -> NelboError:
        pictures = sum(name.startswith(prefix) for name in self.pictures)
        return NelboError(
            f"{strays[0].where} names {strays[0].name!r}, which is no picture of "
            f"{self.listing.folder / prefix}; it has {lines} lines for {pictures} pictures, "
            f"{len(strays)} of them for none: remove these lines or restore the pictures"
        )


def _other_number(path: Path, lines: Sequence[str], names: Sequence[str]) -> NelboError:
    shorter = min(len(lines), len(names))
    first = (
        f"the first picture without a line is {names[shorter]}"
        if len(lines) < len(names)
        else f"the first line without a picture is {lines[shorter]!r}"
    )
    return NelboError(
        f"{path} has {len(lines)} lines for {len(names)} pictures; {first}. Expected one caption a "
        "line in the order of the sorted files, or name<TAB>caption"
    )


def _folder_classes(
    names: Sequence[str], depth: int
) -> tuple[Mapping[str, Label], tuple[str, ...]]:
    """The folder of each picture as its class, and a note if folders are not taken as classes."""
    paths = {name: name.split("/") for name in names}
    loose = [name for name, path in paths.items() if len(path) < depth + 2]
    classes: dict[str, Label] = {
        name: path[depth] for name, path in paths.items() if len(path) >= depth + 2
    }
    folders = {name_of(label) for label in classes.values()}
    if len(folders) < 2:
        return {}, ()
    if not loose:
        return classes, ()
    lie = "1 picture lies" if len(loose) == 1 else f"{len(loose):,} pictures lie"
    return {}, (
        f"the {len(folders)} folders are no classes, because {lie} in none of them, such as "
        f"{printable(loose[0])}",
    )
