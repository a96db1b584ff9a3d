"""Your own pictures: any tree of image files, cropped to one square size.

They are decoded once and mapped from the cache afterwards, see `cache`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from nelbo.data.annotations import Annotations, read_annotations
from nelbo.data.cache import Picture, cached
from nelbo.data.decode import in_threads, read_picture
from nelbo.data.image_data import ImageData
from nelbo.data.listing import File, Listing, list_pictures
from nelbo.data.names import printable
from nelbo.data.reader import is_grey
from nelbo.data.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    EmptySplitError,
    split_by_name,
    split_for_validation,
)
from nelbo.errors import NelboError

LEVELS = 256
# Folders at the top whose names say what they are for.
TRAIN_FOLDER = "train"
TEST_FOLDER = "test"
VALIDATION_FOLDERS = ("validation", "valid", "val")


def load_folder(
    folder: Path,
    split: str,
    size: int,
    channels: int | None,
    *,
    strict: bool = True,
    validation: bool = True,
) -> ImageData:
    """Every picture below `folder`, centre-cropped to a square and resized to `size`.

    Folders train/, validation/ (or valid/, val/) and test/ at the top are the splits; otherwise the
    names of the files decide, see `splits`. With train/ and one other, that one is for test, and
    the names decide which files of train/ are for validation. Captions and labels: see the
    module `annotations`. Files that cannot be read are left out and listed in `skipped`.

    Args:
        folder: the root of the tree.
        split: "train", "validation", "test" or "all".
        size: height and width in pixels.
        channels: 1 for grey, 3 for RGB; None takes grey only where every picture is grey.
        strict: captions and labels of pictures that are not there are an error; otherwise they are
            listed in `unmatched`.
        validation: as `nelbo.data.load_data`.

    Raises:
        NelboError: no pictures in the tree, too few to split, none that can be read, or
            captions and labels that do not fit the pictures.
    """
    listing = list_pictures(folder)
    names = [file.name for file in listing.files]
    declared = _declared(names)
    splits = _splits(names, declared, validation)
    if channels is None:
        channels = _channels(listing)
    entry = cached(
        ("folder", str(folder.resolve()), validation),
        [(file.name, file.size, file.changed) for file in listing.files],
        (channels, size, size),
        lambda: _decoded(listing, splits, size, channels),
        at_most=len(names),
    )
    if not entry.names:
        name, reason, _ = entry.skipped[0]
        raise NelboError(
            f"none of the {len(names)} pictures of {folder} can be read; the first: "
            f"{name}: {reason}"
        )
    here = entry.stretch(split)
    if not entry.names[here]:
        raise EmptySplitError(_nothing_in(split, folder, entry.skipped_of(split)))
    said = read_annotations(listing, entry.names, int(_declared(entry.names)), strict=strict)
    labels, label_names = said.labels_of(entry.names)
    unreadable = (f"{name}: {why}" for name, why in listing.unreadable.items())
    return ImageData(
        source=printable(str(folder)),
        images=entry.images[here],
        pixel_keys=entry.pixel_keys[here],
        levels=LEVELS,
        names=tuple(map(printable, entry.names[here])),
        splits=entry.splits_of(split),
        split_note=_note(names, declared, validation),
        labels=None if labels is None else labels[here],
        label_names=label_names,
        skipped=tuple(map(printable, (*entry.skipped_of(split), *unreadable))),
        notes=_notes(listing, said),
        captions=said.captions_of(entry.names[here]),
        unmatched=said.unmatched,
    )


def _notes(listing: Listing, said: Annotations) -> tuple[str, ...]:
    """What of the folder was not taken as it stands."""
    left_out = listing.left_out
    return (*(() if left_out is None else (left_out,)), *said.notes)


def check_sizes(source: str, size: int) -> None:
    """Raise `NelboError` at the first picture of a folder that is not `size` × `size`.

    Only headers are read; what is no folder, or no picture, is left for `load_folder` to report.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return
    for file in list_pictures(folder).files:
        try:
            with Image.open(folder / file.name) as picture:
                width, height = picture.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
        if (width, height) != (size, size):
            raise NelboError(
                f"{folder / file.name} is {height}×{width}, the model takes {size}×{size}: give "
                "--resize to crop and resize such pictures"
            )


def _declared(names: Sequence[str]) -> bool:
    """Whether folders at the top say what is for training and what for testing."""
    tops = {name.split("/")[0] if "/" in name else "" for name in names}
    return TRAIN_FOLDER in tops and tops <= {TRAIN_FOLDER, TEST_FOLDER, *VALIDATION_FOLDERS}


def _splits(names: Sequence[str], declared: bool, validation: bool) -> list[str]:
    """The split of each picture."""
    others = {name.split("/")[0] for name in names} - {TRAIN_FOLDER}
    if not declared or not others:
        return split_by_name(names, validation=validation) if len(names) > 1 else [TRAIN]
    three = validation and TEST_FOLDER in others and len(others) > 1
    of_folder = dict.fromkeys(VALIDATION_FOLDERS, VALIDATION if three else TEST)
    of_folder |= {TRAIN_FOLDER: TRAIN, TEST_FOLDER: TEST}
    splits = [of_folder[name.split("/")[0]] for name in names]
    return splits if three or not validation else split_for_validation(names, splits)


def _note(names: Sequence[str], declared: bool, validation: bool) -> str | None:
    """Which pictures make which split, where folders called validation are for test."""
    others = sorted({name.split("/")[0] for name in names} - {TRAIN_FOLDER})
    if not declared or not validation or not others or TEST_FOLDER in others:
        return None
    folders = " and ".join(f"{name}/" for name in others)
    return (
        f"there is no {TEST_FOLDER}/: the pictures of {folders} are the test split, and a tenth of "
        f"those of {TRAIN_FOLDER}/, by their names, is the validation split"
    )


def _channels(listing: Listing) -> int:
    for file in listing.files:
        if is_grey(listing.folder / file.name) is False:
            return 3
    return 1


def _decoded(
    listing: Listing, splits: Sequence[str], size: int, channels: int
) -> Iterator[Picture]:
    def read(item: tuple[File, str]) -> Picture:
        file, split = item
        decoded = read_picture(listing.folder / file.name, size, channels)
        pixels = decoded if isinstance(decoded, str) else decoded.pixels
        return Picture(file.name, pixels, split)

    items = list(zip(listing.files, splits, strict=True))
    yield from in_threads(items, read, total=len(items), size=size)


def _nothing_in(split: str, folder: Path, skipped: tuple[str, ...]) -> str:
    if skipped:
        return (
            f"none of the {len(skipped)} pictures of {folder} that are for the {split} split can "
            f"be read; the first: {skipped[0]}"
        )
    needed = {TRAIN: 1, TEST: 2, VALIDATION: 3}[split]
    return f"{folder} holds too few pictures for a {split} split, which needs at least {needed}"
