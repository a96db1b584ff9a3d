"""Your own pictures: any tree of image files, cropped to one size.

They are decoded once and mapped from the cache afterwards, see `cache`. With the option
`?crops=8` each training picture gives eight random crops; see `decode.read_crops`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path

from nelbo.base.errors import NelboError
from nelbo.data.annotations import Annotations, read_annotations
from nelbo.data.cache import Entry, Picture, cached, check_size, not_white
from nelbo.data.crops import base_of, kept_crops, settle_crops
from nelbo.data.declared import are_declared, split_note, split_pictures
from nelbo.data.decode import in_threads, read_crops
from nelbo.data.image_data import ImageData
from nelbo.data.listing import File, Listing, list_pictures
from nelbo.data.names import printable
from nelbo.data.reader import WHITE, is_grey
from nelbo.data.size import Size
from nelbo.data.splits import TEST, TRAIN, VALIDATION, EmptySplitError


def load_folder(
    folder: Path,
    split: str,
    size: Size,
    channels: int | None,
    *,
    strict: bool = True,
    validation: bool = True,
    resize: bool = True,
    crops: int = 1,
    background: str = WHITE,
) -> ImageData:
    """Every picture below `folder`, cropped to the proportions of a size and resized to it.

    Top-level folders train/, validation/ and test/ are the splits, see `declared`; otherwise file
    names decide, see `splits`. Only readable files count. Captions and labels: see the module
    `annotations`. Unreadable files are left out and listed in `skipped`.

    Args:
        folder: the root of the tree.
        split: "train", "validation", "test" or "all".
        size: height and width in pixels.
        channels: 1 for grey, 3 for RGB; None is grey only if every picture is grey.
        strict: raise an error for captions and labels without a picture; otherwise list them in
            `unmatched`.
        validation: as `nelbo.data.load_data`.
        resize: as `nelbo.data.load_data`.
        crops: number of crops of each training picture; others give one.
        background: as `nelbo.data.load_data`.

    Raises:
        NelboError: no pictures in the tree, too few to split, none that can be read, one of another
            size without `resize`, or captions and labels that do not fit the pictures.
    """
    listing = list_pictures(folder)
    names = [file.name for file in listing.files]
    splits = split_pictures(names, validation)
    if channels is None:
        channels = _channels(listing)
    exact = not resize and crops == 1
    entry = cached(
        ("folder", str(folder.resolve()), validation, crops, *not_white(background)),
        [astuple(file) for file in listing.files],
        (channels, *size),
        lambda: _decoded(listing, splits, size, channels, crops, exact, background),
        at_most=splits.count(TRAIN) * crops + len(names) - splits.count(TRAIN),
        settle=settle_crops(partial(split_pictures, validation=validation), crops),
    )
    if not entry.names:
        name, reason, _ = entry.skipped[0]
        raise NelboError(
            f"none of the {len(names)} pictures of {folder} can be read; the first: "
            f"{name}: {reason}"
        )
    if exact:
        entry.check_sizes(f"{folder}/", size)
    here = entry.stretch(split)
    if not entry.names[here]:
        raise EmptySplitError(_nothing_in(split, folder, len(entry.names), entry.skipped_of(split)))
    pictures = [base_of(name, crops) for name in entry.names]
    read = list(dict.fromkeys(pictures))
    annotations = read_annotations(listing, read, int(are_declared(read)), strict=strict)
    labels, label_names = annotations.labels_of(pictures)
    unreadable = (f"{name}: {why}" for name, why in listing.unreadable.items())
    return entry.data(
        split,
        printable(str(folder)) + (f"?crops={crops}" if crops > 1 else ""),
        names=tuple(map(printable, entry.names[here])),
        split_note=split_note(read, validation),
        labels=None if labels is None else labels[here],
        label_names=label_names,
        skipped=tuple(map(printable, (*entry.skipped_of(split), *unreadable))),
        notes=_notes(listing, annotations, entry),
        captions=annotations.captions_of(pictures[here]),
        unmatched=tuple(map(printable, annotations.unmatched)),
    )


def _notes(listing: Listing, annotations: Annotations, entry: Entry) -> tuple[str, ...]:
    """What was left out of the folder, and how pictures and annotations were adapted."""
    left_out = listing.left_out
    return (*(() if left_out is None else (left_out,)), *annotations.notes, *entry.adaptations)


def _channels(listing: Listing) -> int:
    for file in listing.files:
        if is_grey(listing.folder / file.name) is False:
            return 3
    return 1


def _decoded(
    listing: Listing,
    splits: Sequence[str],
    size: Size,
    channels: int,
    crops: int,
    exact: bool,
    background: str,
) -> Iterator[Picture]:
    def read(item: tuple[File, str]) -> list[Picture]:
        file, split = item
        path = listing.folder / file.name
        found = read_crops(path, size, channels, crops, file.name, background=background)
        if exact and not isinstance(found, str):
            check_size(str(path), found[0].size, size)
        return kept_crops(Picture(file.name, "", split), found, crops)

    items = list(zip(listing.files, splits, strict=True))
    for pictures in in_threads(items, read, total=len(items), size=size):
        yield from pictures


def _nothing_in(split: str, folder: Path, pictures: int, skipped: tuple[str, ...]) -> str:
    if skipped:
        return (
            f"none of the {len(skipped)} pictures of {folder} that are for the {split} split can "
            f"be read; the first: {skipped[0]}"
        )
    needed = {TRAIN: "one", TEST: "two", VALIDATION: "three"}[split]
    held = "one picture" if pictures == 1 else f"{pictures} pictures"
    return f"{folder} holds {held}; a {split} split needs at least {needed}"
