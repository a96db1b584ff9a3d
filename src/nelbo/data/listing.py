"""The pictures below a folder, with the sizes and times by which changes are detected."""

from __future__ import annotations

import os
import unicodedata
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from nelbo.base.errors import NelboError
from nelbo.data.formats import count_kinds, is_picture, remedy, suffix_of

# Tables of captions and labels, in any folder; captions of all pictures, at the top; suffixes of
# files that hold the caption of the picture of the same name.
METADATA = ("metadata.jsonl", "metadata.csv")
CAPTIONS = "captions.txt"
SIDECARS = (".txt", ".caption")
# What file managers leave behind.
_IGNORED = {"thumbs.db", "desktop.ini"}
# Files that mark the directory of a run or a model, whose pictures are samples, not data.
_OF_MODELS = ({"nelbo.json"}, {"config.yaml", "metrics.jsonl"})


@dataclass(frozen=True)
class File:
    """A picture, with that by which changes are detected, of it and of whether it can be read.

    Attributes:
        name: its path below the folder, with slashes.
        size: its bytes.
        changed: its time of change, in nanoseconds.
        mode: its permissions.
    """

    name: str
    size: int
    changed: int
    mode: int


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        folder: the folder.
        files: its pictures, sorted by path.
        metadata: its tables of captions and labels.
        sidecars: the files with the caption of one picture.
        unreadable: what could not be listed, and why.
        others: files of other kinds.
    """

    folder: Path
    files: tuple[File, ...]
    metadata: tuple[str, ...] = ()
    sidecars: tuple[str, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def left_out(self) -> str | None:
        """A line about the files of other kinds; None without any."""
        if not self.others:
            return None
        count = len(self.others)
        files = "1 file of another kind" if count == 1 else f"{count:,} files of other kinds"
        return f"{files} left out: {count_kinds(map(suffix_of, self.others))}"


def stem_of(name: str) -> str:
    """The path without its suffix, in composed Unicode (NFC)."""
    return unicodedata.normalize("NFC", str(PurePosixPath(name).with_suffix("")))


def list_pictures(folder: Path) -> Listing:
    """Every picture below `folder`, links followed.

    A folder that several paths lead to is listed once, at its own place if that is below `folder`.
    Hidden files and folders are ignored, and so are the directories of runs, which may lie among
    their training pictures.

    Raises:
        NelboError: the folder cannot be listed, or holds no picture.
    """
    files: list[File] = []
    others: list[str] = []
    unreadable: dict[str, str] = {}
    seen: set[tuple[int, int]] = set()
    folders, links = deque([""]), deque[str]()
    while folders or links:
        prefix = (folders or links).popleft()
        try:
            entries = _entries(folder / prefix, seen)
        except OSError as error:
            why = f"cannot be listed: {error.strerror or error}"
            if not prefix:
                raise NelboError(f"{folder} {why}") from error
            unreadable[prefix.removesuffix("/")] = why
            continue
        if prefix and _is_of_model(entry.name for entry in entries):
            continue
        for entry in entries:
            name = prefix + entry.name
            try:
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(f"{name}/")
                elif not is_picture(entry.name):
                    others.append(name)
                elif entry.is_file():
                    found = entry.stat()
                    files.append(File(name, found.st_size, found.st_mtime_ns, found.st_mode))
                else:
                    dead = entry.is_symlink() and not os.path.exists(entry.path)
                    unreadable[name] = "a link to nothing" if dead else "no ordinary file"
            except OSError as error:
                unreadable[name] = f"cannot be listed: {error.strerror or error}"
    listing = _sorted(folder, files, others, unreadable)
    if not files:
        raise _no_picture(listing)
    return listing


def _entries(directory: Path, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, by name; nothing of one that was seen before."""
    status = directory.stat()
    if (status.st_dev, status.st_ino) in seen:
        return []
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(directory) as listed:
        entries = [entry for entry in listed if not entry.name.startswith(".")]
    return sorted(entries, key=lambda entry: entry.name)


def _sorted(
    folder: Path, files: list[File], others: list[str], unreadable: dict[str, str]
) -> Listing:
    """Sort the files, and those that are not pictures by their purpose."""
    stems = {stem_of(file.name) for file in files}
    metadata, sidecars, left = [], [], []
    for name in others:
        last = name.rpartition("/")[2]
        if last in METADATA:
            metadata.append(name)
        elif name != CAPTIONS and suffix_of(last) in SIDECARS and stem_of(name) in stems:
            sidecars.append(name)
        elif name != CAPTIONS and last.lower() not in _IGNORED:
            left.append(name)
    files.sort(key=lambda file: file.name.split("/"))
    return Listing(
        folder,
        tuple(files),
        metadata=tuple(sorted(metadata)),
        sidecars=tuple(sorted(sidecars)),
        unreadable=unreadable,
        others=tuple(sorted(left)),
    )


def _no_picture(listing: Listing) -> NelboError:
    """The error for a folder without readable pictures, with the package that would read them."""
    first = next(iter(listing.unreadable), None)
    hint = "" if first is None else f"; {first}: {listing.unreadable[first]}"
    if listing.left_out is not None:
        hint += f"; {listing.left_out}"
    known = any(remedy(suffix_of(name)) for name in listing.others)
    can = " that can be read here" if known else ""
    return NelboError(
        f"{listing.folder} holds no .png, .jpg, .webp or other picture{can}, in any subfolder{hint}"
    )


def would_be_listed(folder: Path, path: Path) -> bool:
    """Whether `list_pictures(folder)` would find a picture at `path`, which need not exist.

    Links within the folder are not followed.
    """
    root, place = folder.resolve(), path.resolve()
    if not place.is_relative_to(root) or not is_picture(place.name):
        return False
    if any(part.startswith(".") for part in place.relative_to(root).parts):
        return False
    between = place.parents[: len(place.relative_to(root).parts) - 1]
    return not any(_is_of_model(os.listdir(above)) for above in between if above.is_dir())


def _is_of_model(names: Iterable[str]) -> bool:
    """Whether these files are of the directory of a run or of a model."""
    found = set(names)
    return any(of_model <= found for of_model in _OF_MODELS)
