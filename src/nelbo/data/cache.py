"""Decoded pictures on disk: a set is decoded once, mapped afterwards, and may exceed memory.

An entry is a directory of files, written beside its place and moved there when it is whole:

    images.bin    the pixels, (N, C, H, W) uint8: those to train on, for validation, for test
    keys.bin      a number that the pixels of each decide, (N,) int64; see `pixel_key`
    index.json    names, shape, and what could not be read

It lies in NELBO_CACHE, else in XDG_CACHE_HOME/nelbo, else in ~/.cache/nelbo. All entries together
are kept below NELBO_CACHE_GB (20) by removing those that were not used for longest.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from nelbo.base.digest import digest
from nelbo.base.errors import NelboError
from nelbo.base.locks import lock
from nelbo.data.cache_room import IMAGES, INDEX, PARTIAL, cache_directory, check_room, evict
from nelbo.data.image_data import ImageData
from nelbo.data.names import printable
from nelbo.data.pixel_key import pixel_key
from nelbo.data.reader import WHITE, Passing
from nelbo.data.splits import ALL, PARTS, TRAIN

# Pixel levels of what is decoded.
LEVELS = 256
_KEYS, _WAITING = "keys.bin", "waiting.bin"
_VERSION = 7  # of what is stored and how pictures are decoded

Settle = Callable[[Sequence[str], Sequence[str]], Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """One picture on its way into the cache.

    Attributes:
        name: what to call it.
        pixels: (C, H, W) uint8, or why it cannot be read.
        split: "train", "validation" or "test".
        label: its class, if the source stores classes with pixels.
        caption: its text, if the source stores texts with pixels.
        size: (height, width) before cropping; None for drawings.
        notes: how the picture was adapted.
    """

    name: str
    pixels: np.ndarray | str
    split: str = TRAIN
    label: int | str | None = None
    caption: str | None = None
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """What is stored of a set; the images are mapped from the file.

    Attributes:
        images: (N, C, H, W) uint8, first those to train on, then those for validation and for test.
        pixel_keys: hash of the pixels of each, (N,) int64.
        counts: how many there are of each split.
        names: of the images.
        labels: classes, or None for each.
        captions: texts, or None for each.
        skipped: (name, why, split) of each picture that could not be read.
        sizes: (height, width) of each before cropping; None for drawings.
        notes: how each was adapted.
        extra: further facts about the source.
    """

    images: UInt8[Tensor, "n channels height width"]
    pixel_keys: Int[Tensor, " n"]
    counts: dict[str, int]
    names: tuple[str, ...]
    labels: tuple[int | str | None, ...]
    captions: tuple[str | None, ...]
    skipped: tuple[tuple[str, str, str], ...]
    sizes: tuple[tuple[int, int] | None, ...]
    notes: tuple[tuple[str, ...], ...]
    extra: dict[str, Any]

    def stretch(self, split: str) -> slice:
        """Where the images of a split lie; splits are contiguous, so that they are views."""
        if split == ALL:
            return slice(0, len(self.names))
        start = sum(self.counts[before] for before in PARTS[: PARTS.index(split)])
        return slice(start, start + self.counts[split])

    def splits_of(self, split: str) -> tuple[str, ...]:
        """The split of each image of a split, or of all."""
        return tuple(
            part for part in PARTS if split in (part, ALL) for _ in range(self.counts[part])
        )

    def skipped_of(self, split: str) -> tuple[str, ...]:
        """Each picture of a split that could not be read, with the reason."""
        return tuple(f"{name}: {why}" for name, why, of in self.skipped if split in (of, ALL))

    def data(self, split: str, source: str, **more: Any) -> ImageData:
        """The images of a split; `more` is what else is known of them, or goes by another name."""
        here = self.stretch(split)
        known: dict[str, Any] = {"names": self.names[here], "skipped": self.skipped_of(split)}
        return ImageData(
            source,
            self.images[here],
            LEVELS,
            pixel_keys=self.pixel_keys[here],
            splits=self.splits_of(split),
            **known | more,
        )

    @property
    def adaptations(self) -> tuple[str, ...]:
        """A line for each adaptation of pictures, of whichever split, so that all name it alike."""
        found = defaultdict(list)
        for name, notes in zip(self.names, self.notes, strict=True):
            for note in notes:
                found[note].append(name)
        return tuple(
            f"{len(names):,} of {len(self.names):,} pictures "
            f"{'has' if len(names) == 1 else 'have'} {note} ({printable(names[0])}"
            f"{'' if len(names) == 1 else ', ...'})"
            for note, names in found.items()
        )

    def check_sizes(self, source: str, size: tuple[int, int]) -> None:
        """Raise `NelboError` for the first picture that was cut or resized.

        Args:
            source: what comes before its name.
            size: (height, width) that it has now.
        """
        for name, found in zip(self.names, self.sizes, strict=True):
            check_size(f"{source}{name}", found, size)


def check_size(what: str, found: tuple[int, int] | None, size: tuple[int, int]) -> None:
    """Raise `NelboError` for a picture of another (height, width) than a model takes."""
    if found is not None and found != size:
        raise NelboError(
            f"{printable(what)} is {found[0]}×{found[1]}, the model takes {size[0]}×{size[1]}: "
            "give --resize to crop and resize such pictures"
        )


def cached(
    place: Sequence[object],
    content: object,
    shape: tuple[int, int, int],
    pictures: Callable[[], Iterator[Picture]],
    *,
    at_most: int | None = None,
    extra: dict[str, Any] | None = None,
    settle: Settle | None = None,
) -> Entry:
    """The pictures of a set, from the cache or decoded into it.

    What a picture could not be read for this time alone is not kept: see `reader.Passing`.

    Args:
        place: identifies the set and size; new content of the same place replaces the old.
        content: identifies the content, such as file sizes and times.
        shape: (C, H, W) of every picture.
        pictures: decodes them, in order.
        at_most: upper bound on their number, to check the free space first.
        extra: further facts to store; `pictures` may add to it.
        settle: maps names and splits of the readable pictures to the splits to store them in, ""
            to drop one; for splits that depend on which pictures are readable.

    Raises:
        NelboError: the cache cannot be written or has no room.
    """
    where = _digest([_VERSION, *place, shape])
    root = cache_directory()
    final = root / f"{where}-{_digest(content)}"
    entry = _open(final)
    if entry is not None:
        return entry
    extra = {} if extra is None else extra
    key = root / f"{where}.lock"
    key.touch()
    with lock(key, wait=True):  # else two processes decode the same pictures
        entry = _open(final)  # another process may have written it meanwhile
        if entry is not None:
            return entry
        for old in root.glob(f"{where}-*"):  # outdated, damaged, or left by a killed process
            shutil.rmtree(old, ignore_errors=True)
        check_room(root, at_most, shape)
        prefix = f"{where}-{PARTIAL}"
        try:
            with tempfile.TemporaryDirectory(
                dir=root, prefix=prefix, ignore_cleanup_errors=True
            ) as name:
                partial = Path(name)
                index, lasts = _write(partial, shape, pictures(), extra, settle)
                if not index["names"]:
                    nothing = torch.empty(0, *shape, dtype=torch.uint8)
                    return _entry(index, nothing, torch.empty(0, dtype=torch.int64))
                if lasts:
                    partial.rename(final)
                # What is mapped stays when its files are gone.
                entry = _open(final if lasts else partial)
        except OSError as error:
            raise NelboError(
                f"cannot write decoded pictures to {root}: {error.strerror or error}. Make room, "
                "choose a smaller size, or name another directory in NELBO_CACHE"
            ) from error
    evict(root, keep=final)
    assert entry is not None
    return entry


def not_white(background: str) -> tuple[str, ...]:
    """What a background adds to the place of an entry; white adds nothing, so that entries from
    before there was another stay valid."""
    return () if background == WHITE else (background,)


def _digest(content: object) -> str:
    return digest([json.dumps(content, default=str)], size=10)


def _open(directory: Path) -> Entry | None:
    """The entry, or None if it is missing or its files do not match."""
    try:
        index = json.loads((directory / INDEX).read_text())
        shape = len(index["names"]), *index["shape"]
        pixels = int(np.prod(shape))
        if (directory / IMAGES).stat().st_size != pixels:
            return None
        keys = torch.from_numpy(np.fromfile(directory / _KEYS, dtype=np.int64))
        if len(keys) != len(index["names"]):
            return None
        # Not shared: a private mapping cannot change the file.
        flat = torch.from_file(
            str(directory / IMAGES), shared=False, size=pixels, dtype=torch.uint8
        )
        with contextlib.suppress(OSError):
            os.utime(directory / INDEX)  # used now
        return _entry(index, flat.view(shape), keys)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def _entry(index: dict[str, Any], images: Tensor, keys: Tensor) -> Entry:
    return Entry(
        images,
        keys,
        index["counts"],
        tuple(index["names"]),
        tuple(index["labels"]),
        tuple(index["captions"]),
        tuple((name, why, split) for name, why, split in index["skipped"]),
        tuple(None if size is None else (size[0], size[1]) for size in index["sizes"]),
        tuple(tuple(notes) for notes in index["notes"]),
        index["extra"],
    )


def _write(
    directory: Path,
    shape: tuple[int, int, int],
    pictures: Iterator[Picture],
    extra: dict[str, Any],
    settle: Settle | None,
) -> tuple[dict[str, Any], bool]:
    """Write the files, and return the index and whether it will be the same another time."""
    kept: dict[str, list[Picture]] = {split: [] for split in PARTS}
    keys: dict[str, list[int]] = {split: [] for split in PARTS}
    places: dict[str, list[int]] = {split: [] for split in PARTS}
    skipped: list[tuple[str, str, str]] = []
    lasts = True
    # What comes after the images to train on waits in files of its own until its place is known.
    paths = {split: directory / f"{split}-{_WAITING}" for split in PARTS}
    paths[TRAIN] = directory / IMAGES
    with contextlib.ExitStack() as opened:
        files = {s: opened.enter_context(path.open("w+b")) for s, path in paths.items()}
        for number, picture in enumerate(pictures):
            if isinstance(picture.pixels, str):
                skipped.append((picture.name, picture.pixels, picture.split))
                lasts = lasts and not isinstance(picture.pixels, Passing)
                continue
            assert picture.pixels.shape == shape
            assert picture.pixels.dtype == np.uint8
            pixels = np.ascontiguousarray(picture.pixels)
            files[picture.split].write(pixels.data)
            kept[picture.split].append(replace(picture, pixels=""))
            places[picture.split].append(number)
            keys[picture.split].append(pixel_key(pixels))
        for waiting in (file for split, file in files.items() if split != TRAIN):
            waiting.seek(0)
            shutil.copyfileobj(waiting, files[TRAIN], 1 << 20)
        files[TRAIN].flush()
        os.fsync(files[TRAIN].fileno())
    for split, path in paths.items():
        if split != TRAIN:
            path.unlink()
    ordered_keys = [key for split in PARTS for key in keys[split]]
    ordered = [picture for split in PARTS for picture in kept[split]]
    splits = [picture.split for picture in ordered]
    if settle is not None:
        settled = list(settle([picture.name for picture in ordered], splits))
        if settled != splits:
            # Each split in the order of the source, whatever they were taken for before.
            place = [place for split in PARTS for place in places[split]]
            kept_still = [i for i, split in enumerate(settled) if split]
            order = sorted(kept_still, key=lambda i: (PARTS.index(settled[i]), place[i]))
            _reorder(directory / IMAGES, shape, order)
            ordered_keys = [ordered_keys[i] for i in order]
            ordered, splits = [ordered[i] for i in order], [settled[i] for i in order]
    np.array(ordered_keys, dtype=np.int64).tofile(directory / _KEYS)
    index = {
        "shape": shape,
        "counts": {split: splits.count(split) for split in PARTS},
        "names": [picture.name for picture in ordered],
        "labels": [picture.label for picture in ordered],
        "captions": [picture.caption for picture in ordered],
        "skipped": skipped,
        "sizes": [picture.size for picture in ordered],
        "notes": [picture.notes for picture in ordered],
        "extra": extra,
    }
    (directory / INDEX).write_text(json.dumps(index))
    return index, lasts


def _reorder(path: Path, shape: tuple[int, int, int], order: Sequence[int]) -> None:
    """Write the images of a file again, in another order or without some."""
    size, moved = int(np.prod(shape)), path.with_suffix(".moved")
    with path.open("rb") as file, moved.open("wb") as out:
        for i in order:
            file.seek(i * size)
            out.write(file.read(size))
        out.flush()
        os.fsync(out.fileno())
    moved.replace(path)
