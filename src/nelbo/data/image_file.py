"""One picture from a file, in the size and channels that a model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from nelbo.errors import NelboError

_MODES = {1: "L", 3: "RGB"}


def read_image(
    path: str | Path, shape: Sequence[int], *, resize: bool = False
) -> UInt8[Tensor, "channels height width"]:
    """The picture as 0..255; what is transparent becomes white.

    Args:
        path: a file of any format that Pillow reads.
        shape: (C, H, W) to come out.
        resize: cut a picture of another size to the proportions of `shape`, and scale it.

    Raises:
        NelboError: a file that is missing or no picture, or of another size without `resize`.
    """
    channels, height, width = shape
    with _explained(path), Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if "A" in image.getbands() or "transparency" in image.info:
            coloured = image.convert("RGBA")
            white = Image.new("RGBA", coloured.size, "white")
            image = Image.alpha_composite(white, coloured)
        image = image.convert(_MODES[channels])
    if image.size != (width, height):
        if not resize:
            raise NelboError(
                f"{path} is {image.width}×{image.height} pixels, the model takes {width}×{height}: "
                "give --resize to cut and scale it"
            )
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    array = np.array(image, dtype=np.uint8).reshape(height, width, channels)
    return torch.from_numpy(array.transpose(2, 0, 1).copy())


def check_image(path: str | Path) -> None:
    """Raise `NelboError` for a file that is missing or no picture; reads its head alone."""
    with _explained(path), Image.open(path):
        pass


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """What Pillow says of a file as a `NelboError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise NelboError(f"there is no picture {path}") from error
    except UnidentifiedImageError as error:
        raise NelboError(f"{path} is no picture of a known format") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise NelboError(f"{path} cannot be read as a picture: {error}") from error
