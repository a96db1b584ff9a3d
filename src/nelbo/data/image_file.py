"""One picture from a file, in the size and channels that a model takes, and masks of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import UnidentifiedImageError
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.data.decode import prepare
from nelbo.data.formats import remedy, suffix_of
from nelbo.data.reader import CONTRAST, Opened, in_pillow, is_turned, open_picture, why

# A mask is white, and its pixel painted, from this pixel level on, of 0..255.
_WHITE = 128


def read_image(path: str | Path, shape: Sequence[int]) -> UInt8[Tensor, "channels height width"]:
    """The picture as 0..255, cropped at the centre to the proportions of `shape`, and scaled.

    Transparent areas become white; see `reader` for the rest.

    Args:
        path: the file.
        shape: (C, H, W) to come out.

    Raises:
        NelboError: a file that is missing or no picture.
    """
    return _read(path, shape, "white")


def read_drawing(path: str | Path, shape: Sequence[int]) -> UInt8[Tensor, "channels height width"]:
    """As `read_image`, with transparent areas black under light lines, which white would hide."""
    return _read(path, shape, CONTRAST)


def _read(path: str | Path, shape: Sequence[int], background: str) -> Tensor:
    channels, *size = shape
    with _explained(path):
        opened = open_picture(Path(path), (size[0], size[1]), background=background)
        return torch.from_numpy(prepare(opened.image, (size[0], size[1]), channels).copy())


def read_levels(
    path: str | Path, channels: int, levels: int
) -> UInt8[Tensor, "channels height width"]:
    """The pixel levels of a picture as they are, neither turned nor scaled nor converted.

    Args:
        path: the file.
        channels: 1 for a grey picture, 3 for colours, which a palette may hold.
        levels: how many levels a pixel has; the values in the file are these.

    Raises:
        NelboError: a file that is missing or no picture, or one that loses by becoming such pixels:
            with transparency, 16 bits, an orientation, other channels or higher values.
    """
    with _explained(path), in_pillow(Path(path)) as image:
        mode, frames = image.mode, getattr(image, "n_frames", 1)
        transparent = "transparency" in image.info
        # Pillow reads 16 bits of each colour as their upper 8, without a mode of its own for them.
        deep = any("16" in str(tile[3]) for tile in image.tile)
        turned = is_turned(image)
        pixels = np.array(image.convert("RGB") if mode == "P" else image)
        turned = turned or is_turned(image)  # a PNG may have its EXIF behind the pixels
    if mode not in ("L", "RGB", "P") or transparent or deep or turned or frames > 1:
        kind = f"{frames} frames" if frames > 1 else "16 bits a channel" if deep else f"mode {mode}"
        kind = "an EXIF orientation to be turned by" if turned else kind
        kind = "transparency" if transparent else kind
        raise NelboError(
            f"{path} has {kind}: without loss, grey or RGB pictures of 8 bits and one frame are "
            "compressed; convert it first, or give its folder as --data, taken as for training"
        )
    found = 1 if mode == "L" else 3
    if found != channels:
        raise NelboError(f"{path} has {found} channels, the model has {channels}: convert it first")
    if int(pixels.max()) >= levels:
        raise NelboError(
            f"{path} has pixel level {int(pixels.max())}, the model has levels 0..{levels - 1}"
        )
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)


def read_mask(path: str | Path, size: Sequence[int]) -> Bool[Tensor, "height width"]:
    """The pixels to paint: those where the mask is white and not transparent.

    The mask is cropped and scaled like its picture.

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
            f"the mask {path} is nowhere white at {height}×{width}, so nothing would be painted: "
            "make the area to paint white and opaque"
        )
    if paint.all():
        raise NelboError(
            f"the mask {path} is white everywhere at {height}×{width}, so nothing would be kept: "
            "make the area to keep black or transparent"
        )
    return paint


def examine(path: str | Path) -> Opened:
    """A picture, upright, with its size and notes on how it was adapted.

    Raises:
        NelboError: a file that is missing or no picture.
    """
    with _explained(path):
        return open_picture(Path(path), (1, 1))


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """Convert the errors of Pillow to `NelboError`."""
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
    """The package to install, if a file cannot be read for lack of it."""
    way = remedy(suffix_of(Path(path).name))
    return f"; to read such files: {way}" if way else ""
