"""One picture from a file, in the size and channels that a model takes, and masks of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from PIL import UnidentifiedImageError
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.data.decode import prepare
from nelbo.data.formats import remedy, suffix_of
from nelbo.data.reader import Opened, open_picture, why

# From this level on, of 0..255, a mask says to paint.
_WHITE = 128


def read_image(path: str | Path, shape: Sequence[int]) -> UInt8[Tensor, "channels height width"]:
    """The picture as 0..255, cut in the middle to the proportions of `shape`, and scaled.

    What is transparent becomes white; see `reader` for the rest.

    Args:
        path: the file.
        shape: (C, H, W) to come out.

    Raises:
        NelboError: a file that is missing or no picture.
    """
    channels, *size = shape
    with _explained(path):
        opened = open_picture(Path(path), (size[0], size[1]))
        return torch.from_numpy(prepare(opened.image, (size[0], size[1]), channels).copy())


def read_mask(path: str | Path, size: Sequence[int]) -> Bool[Tensor, "height width"]:
    """Where a mask says to paint: where it is white and not transparent.

    It is cut and scaled as the picture that it belongs to.

    Args:
        path: the file.
        size: (H, W) to come out.

    Raises:
        NelboError: a file that is missing or no picture, or one that paints nothing or everything.
    """
    height, width = size
    with _explained(path):
        opened = open_picture(Path(path), (height, width), background="black")
        levels = prepare(opened.image, (height, width), 1)
    paint = torch.from_numpy(levels[0] >= _WHITE)
    if not paint.any():
        raise NelboError(
            f"the mask {path} is nowhere white at {height}×{width}, so nothing is to be painted: "
            "make white, and not transparent, what is to be painted"
        )
    if paint.all():
        raise NelboError(
            f"the mask {path} is white everywhere at {height}×{width}, so nothing is to be kept: "
            "make black or transparent what is to be kept"
        )
    return paint


def examine(path: str | Path) -> Opened:
    """A picture with its size, upright, and what is not taken from the file as it stands.

    Raises:
        NelboError: a file that is missing or no picture.
    """
    with _explained(path):
        return open_picture(Path(path), (1, 1))


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """What Pillow says of a file as a `NelboError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise NelboError(f"there is no picture {path}") from error
    except UnidentifiedImageError as error:
        raise NelboError(f"{path} is no picture of a known format{_hint(path)}") from error
    except Exception as error:  # Pillow's readers raise whatever they meet in a damaged file
        reason = why(error, Path(path))
        raise NelboError(f"{path} cannot be read as a picture: {reason}{_hint(path)}") from error


def _hint(path: str | Path) -> str:
    """What to install, where that is why a file cannot be read."""
    way = remedy(suffix_of(Path(path).name))
    return f"; to read such files: {way}" if way else ""
