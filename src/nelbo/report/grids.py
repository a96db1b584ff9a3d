"""Images in a grid, enlarged so that small ones can be read."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.base.files import new_file
from nelbo.evidence.file_sizes import MODES, picture

# The side of a page of images to look at, and the least and the largest that one is enlarged to.
_PAGE_SIDE, _READABLE_SIDE, _LARGE_SIDE = 512, 48, 128


def to_bytes(images: UInt8[Tensor, "..."], levels: int) -> UInt8[Tensor, "..."]:
    """Pixel levels 0..levels−1 as the 0..255 of a screen.

    Raises:
        NelboError: fewer than two levels, or a pixel outside them.
    """
    if levels < 2:
        raise NelboError(f"pixels need at least 2 pixel levels, got {levels}")
    if images.numel() and int(images.max()) >= levels:
        raise NelboError(f"found pixel level {int(images.max())}, expected 0..{levels - 1}")
    return (images.double() * (255.0 / (levels - 1))).round().to(torch.uint8)


def to_pil(image: UInt8[Tensor, "channels height width"], levels: int = 256) -> Image.Image:
    """One grey or RGB image at its own size.

    Raises:
        NelboError: neither one nor three channels, or a pixel outside the levels.
    """
    return picture(to_bytes(image, levels))


def image_grid(
    images: UInt8[Tensor, "n channels height width"],
    levels: int = 256,
    *,
    columns: int | None = None,
    scale: int | None = None,
    gap: int | None = None,
) -> Image.Image:
    """The images row by row on a white page.

    Args:
        images: pixel levels 0..levels−1, (N, C, H, W), grey or RGB.
        levels: how many levels a pixel has; the highest becomes white.
        columns: images a row; as square as can be by default.
        scale: whole factor of enlargement, each pixel a block; by default that of `page_scale`.
        gap: white pixels between images and around them; an eighth of an image by default.

    Raises:
        NelboError: no images, or images that are neither grey nor RGB.
    """
    if images.ndim != 4 or len(images) == 0:
        raise NelboError(
            f"a grid needs at least one image as (N, C, H, W), got shape {tuple(images.shape)}"
        )
    n, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else min(columns, n)
    scale = page_scale(max(height, width), columns) if scale is None else scale
    gap = max(1, scale * max(height, width) // 8) if gap is None else gap
    if columns < 1 or scale < 1 or gap < 0:
        raise NelboError(
            "a grid needs columns and scale of at least 1 and a gap of at least 0, got "
            f"columns={columns}, scale={scale}, gap={gap}"
        )
    rows = math.ceil(n / columns)
    cell_width, cell_height = width * scale + gap, height * scale + gap
    size = columns * cell_width + gap, rows * cell_height + gap
    page = Image.new(MODES.get(channels, "RGB"), size, "white")
    for i, image in enumerate(images):
        enlarged = to_pil(image, levels).resize(
            (width * scale, height * scale), Image.Resampling.NEAREST
        )
        row, column = divmod(i, columns)
        page.paste(enlarged, (gap + column * cell_width, gap + row * cell_height))
    return page


def page_scale(side: int, columns: int) -> int:
    """The whole factor to enlarge small pictures by for a page; 1 for large ones.

    A few are enlarged to 128 pixels each; 4 to 10 columns to less, so that the page has about 512;
    and more of them to 48 each, which can still be read.
    """
    wanted = min(_LARGE_SIDE, max(_READABLE_SIDE, _PAGE_SIDE // max(1, columns)))
    return max(1, wanted // side)


def save_image(image: Image.Image, path: str | Path) -> None:
    """Write an image in the format of its suffix; the file appears whole or not at all.

    Raises:
        NelboError: a name whose ending is no image format, or where nothing can be written.
    """
    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:  # some are read only
        raise NelboError(f"{path} must end in an image format such as .png")
    with new_file(path) as temporary:
        image.save(temporary, format=kind)


def save_grid(
    images: UInt8[Tensor, "n channels height width"],
    path: str | Path,
    levels: int = 256,
    *,
    columns: int | None = None,
) -> None:
    """`image_grid`, written to a file.

    Raises:
        NelboError: as `image_grid` and `save_image`.
    """
    save_image(image_grid(images, levels, columns=columns), path)
