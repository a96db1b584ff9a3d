"""Pictures with the prompts that they were drawn from written beneath them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.report.grids import image_grid

# The side that pictures are enlarged to where words stand beneath them, at least half of it.
_CAPTIONED_SIDE = 128
_FONT_SIZE = 13
_LEADING = 4
_LINES = 3
_INK = (60, 60, 60)


def prompt_grid(
    images: UInt8[Tensor, "n channels height width"],
    prompts: Sequence[str],
    levels: int = 256,
    *,
    scale: int | None = None,
) -> Image.Image:
    """The pictures of each prompt in a row with the prompt beneath, or side by side if one each.

    Args:
        images: pixel levels 0..levels−1, (N, C, H, W); image i is of prompt i modulo their number.
        prompts: what was asked for, at most N.
        levels: how many levels a pixel has.
        scale: whole factor of enlargement; by default what brings small pictures to 128 pixels.

    Raises:
        NelboError: no prompts or more than images, or as `image_grid`.
    """
    if not 0 < len(prompts) <= len(images):
        raise NelboError(
            f"{len(prompts)} prompts for {len(images)} images; expected at most one each"
        )
    columns = math.ceil(len(images) / len(prompts))
    rows = [
        _captioned(*_row(images[i :: len(prompts)], levels, columns, scale), prompt)
        for i, prompt in enumerate(prompts)
    ]
    return _tiled(rows, 1 if columns > 1 else math.ceil(math.sqrt(len(rows))))


def interpolation_grid(
    images: UInt8[Tensor, "n channels height width"],
    first: str,
    second: str,
    frames: int,
    levels: int = 256,
    *,
    scale: int | None = None,
) -> Image.Image:
    """Rows of `frames` pictures on the way from one prompt to another, which stand at the ends.

    Args:
        images: pixel levels 0..levels−1, (N, C, H, W), row by row.
        first: the prompt on the left.
        second: the prompt on the right.
        frames: pictures a row.
        levels: how many levels a pixel has.
        scale: as `prompt_grid`.

    Raises:
        NelboError: as `image_grid`.
    """
    return _captioned(*_row(images, levels, frames, scale), first, second)


def _row(images: Tensor, levels: int, columns: int, scale: int | None) -> tuple[Image.Image, int]:
    """A grid as wide as one of `columns` pictures, and the gap around each."""
    if scale is None:
        scale = max(1, _CAPTIONED_SIDE // max(images.shape[2:]))
    page = image_grid(images, levels, columns=columns, scale=scale)
    full = image_grid(images[:1], levels, columns=1, scale=scale)
    gap = (full.width - images.shape[3] * scale) // 2
    width = columns * (full.width - gap) + gap
    if page.width == width:
        return page, gap
    wide = Image.new(page.mode, (width, page.height), "white")
    wide.paste(page)
    return wide, gap


def _captioned(
    picture: Image.Image, margin: int, left: str, right: str | None = None
) -> Image.Image:
    """A picture on a page with a text below it, or one below each end, so far from the side."""
    font = _font()
    texts = [left] if right is None else [left, right]
    width = picture.width // len(texts) - 2 * margin
    wrapped = [_wrapped(text, font, width) for text in texts]
    line_height = _FONT_SIZE + _LEADING
    height = picture.height + line_height * max(len(lines) for lines in wrapped) + _LEADING
    page = Image.new("RGB", (picture.width, height), "white")
    page.paste(picture)
    draw = ImageDraw.Draw(page)
    for side, lines in enumerate(wrapped):
        for i, line in enumerate(lines):
            x = picture.width - margin - font.getlength(line) if side else float(margin)
            draw.text((x, picture.height + i * line_height), line, fill=_INK, font=font)
    return page


def _tiled(blocks: Sequence[Image.Image], columns: int) -> Image.Image:
    """Blocks of one width, `columns` a row."""
    rows = [blocks[i : i + columns] for i in range(0, len(blocks), columns)]
    heights = [max(block.height for block in row) for row in rows]
    width = blocks[0].width
    page = Image.new("RGB", (min(columns, len(blocks)) * width, sum(heights)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for i, block in enumerate(row):
            page.paste(block, (i * width, top))
        top += height
    return page


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines of a text at most so wide; what does not fit on a few is left out."""
    lines = [""]
    for word in text.split():
        both = f"{lines[-1]} {word}".strip()
        if font.getlength(both) <= width:
            lines[-1] = both
        else:
            lines.append(word)
    lines = [line for line in lines if line] or [""]
    kept = lines[:_LINES]
    if len(lines) > _LINES:
        kept[-1] += " …"
    return [_cut(line, font, width) for line in kept]


def _cut(line: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(line) <= width:
        return line
    line = line.removesuffix(" …")
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…"


@cache
def _font() -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path

    # It has the letters of most scripts; that of Pillow only has Latin ones.
    file = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(file), _FONT_SIZE)
