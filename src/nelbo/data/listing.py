"""The pictures below a folder, with what tells whether they have changed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nelbo.errors import NelboError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
METADATA = "metadata.jsonl"
# What lies together in the directory of a run or of a model, whose pictures are samples, no data.
_OF_MODELS = ({"nelbo.json"}, {"config.yaml", "metrics.jsonl"})


@dataclass(frozen=True)
class File:
    """A picture: its path below the folder with slashes, its bytes, its time of change."""

    name: str
    size: int
    changed: int


@dataclass(frozen=True)
class Listing:
    """A folder's pictures sorted by path, its metadata files, and what could not be listed."""

    folder: Path
    files: tuple[File, ...]
    metadata: tuple[str, ...]
    unreadable: dict[str, str]


def list_pictures(folder: Path) -> Listing:
    """Every picture below `folder`, links followed.

    Left out are hidden files and folders, and the directories of runs, which may lie among the
    pictures that they were trained on.

    Raises:
        NelboError: the folder cannot be listed, or holds no picture.
    """
    files: list[File] = []
    metadata: list[str] = []
    unreadable: dict[str, str] = {}
    seen: set[tuple[int, int]] = set()

    def walk(directory: Path, prefix: str) -> None:
        status = directory.stat()
        if (status.st_dev, status.st_ino) in seen:  # a link back to a folder above
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(directory) as listed:
            entries = [entry for entry in listed if not entry.name.startswith(".")]
        if prefix and _is_of_model(entry.name for entry in entries):
            return
        for entry in entries:
            name = prefix + entry.name
            try:
                if entry.is_dir():
                    walk(directory / entry.name, f"{name}/")
                elif entry.name == METADATA:
                    metadata.append(name)
                elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                    found = entry.stat()
                    files.append(File(name, found.st_size, found.st_mtime_ns))
            except OSError as error:
                unreadable[name] = error.strerror or str(error)

    try:
        walk(folder, "")
    except OSError as error:
        raise NelboError(f"{folder} cannot be listed: {error.strerror or error}") from error
    if not files:
        kinds = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        first = next(iter(unreadable), None)
        hint = "" if first is None else f"; {first} cannot be listed: {unreadable[first]}"
        raise NelboError(f"{folder} holds no {kinds} file, in any subfolder{hint}")
    files.sort(key=lambda file: file.name.split("/"))
    return Listing(folder, tuple(files), tuple(sorted(metadata)), unreadable)


def would_be_listed(folder: Path, path: Path) -> bool:
    """Whether a picture at `path`, there or not, is one that `list_pictures(folder)` finds.

    Links within the folder are not followed.
    """
    root, place = folder.resolve(), path.resolve()
    if not place.is_relative_to(root) or place.suffix.lower() not in SUFFIXES:
        return False
    if any(part.startswith(".") for part in place.relative_to(root).parts):
        return False
    between = place.parents[: len(place.relative_to(root).parts) - 1]
    return not any(_is_of_model(os.listdir(above)) for above in between if above.is_dir())


def _is_of_model(names: Iterable[str]) -> bool:
    """Whether these files are of the directory of a run or of a model."""
    found = set(names)
    return any(of_model <= found for of_model in _OF_MODELS)
