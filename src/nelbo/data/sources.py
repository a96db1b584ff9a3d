"""From what a user types to images: the name of a data set, or the path of a folder."""

from __future__ import annotations

from pathlib import Path

from nelbo.data.digits import load_digits
from nelbo.data.folder import load_folder
from nelbo.data.image_data import SPLITS, ImageData
from nelbo.errors import NelboError

NAMES = ("digits",)
DEFAULT_SIZE = 32


def load_data(
    source: str, split: str = "train", *, size: int | None = None, channels: int | None = None
) -> ImageData:
    """The images of one split of a source.

    Args:
        source: "digits", or the path of a folder of pictures.
        split: "train", "test" or "all".
        size: height and width to crop and resize the pictures of a folder to; 32 by default.
        channels: 1 or 3 for the pictures of a folder; by default what they are.

    Raises:
        NelboError: an unknown source or split, a size or channels that the source does not have,
            or nothing that can be read.
    """
    if split not in SPLITS:
        raise NelboError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    if channels not in (None, 1, 3):
        raise NelboError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    if size is not None and size < 1:
        raise NelboError(f"size must be at least 1 pixel, got {size}")
    folder = Path(source).expanduser()
    if source in NAMES and not folder.is_dir():
        data = load_digits(split)
        if size not in (None, data.shape[1]) or channels not in (None, data.shape[0]):
            raise NelboError(
                f"{source} has images of shape {data.shape}; size and channels are for folders"
            )
        return data
    if folder.is_dir():
        return load_folder(folder, split, size or DEFAULT_SIZE, channels)
    if folder.exists():
        raise NelboError(f"{source} is a file; expected a folder of pictures")
    raise NelboError(
        f"unknown data {source!r}: expected a data set ({', '.join(NAMES)}) or the path of a "
        "folder of pictures"
    )
