"""Your own pictures: any tree of PNG and JPEG files, cropped to one square size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor

from nelbo.data.image_data import ImageData
from nelbo.errors import NelboError

SUFFIXES = (".png", ".jpg", ".jpeg")
LEVELS = 256
HELD_OUT_EVERY = 10
_GREY_MODES = ("1", "L", "LA", "I;16", "I", "F")


def load_folder(folder: Path, split: str, size: int, channels: int | None) -> ImageData:
    """Every picture below `folder`, centre-cropped to a square and resized to `size`.

    Of the files sorted by path every tenth is held out for the test split. Files that cannot be
    read are left out and listed in `skipped`.

    Args:
        folder: the root of the tree.
        split: "train", "test" or "all".
        size: height and width in pixels.
        channels: 1 for grey, 3 for RGB; None takes grey only where every picture is grey.

    Raises:
        NelboError: no pictures in the tree, too few to split, or none that can be read.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise NelboError(f"{folder} holds no {' or '.join(SUFFIXES)} file, in any subfolder")
    chosen = _split(paths, split, folder)
    read = _read_all(chosen, size)
    names = [str(p.relative_to(folder)) for p in chosen]
    results = list(zip(names, read, strict=True))
    good = [(name, image) for name, image in results if isinstance(image, Tensor)]
    skipped = tuple(f"{name}: {reason}" for name, reason in results if isinstance(reason, str))
    if not good:
        raise NelboError(
            f"none of the {len(chosen)} pictures of {folder} can be read; the first: {skipped[0]}"
        )
    if channels is None:
        channels = max(image.shape[0] for _, image in good)
    return ImageData(
        source=str(folder),
        images=torch.stack([_with_channels(image, channels) for _, image in good]),
        levels=LEVELS,
        names=tuple(name for name, _ in good),
        skipped=skipped,
    )


def check_sizes(source: str, split: str, size: int) -> None:
    """Raise `NelboError` at the first picture of a folder that is not `size` × `size`.

    Only headers are read; what is no folder, or no picture, is left for `load_folder` to report.
    """
    folder = Path(source).expanduser()
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    for path in _split(paths, split, folder) if len(paths) > 1 else paths:
        try:
            with Image.open(path) as picture:
                width, height = picture.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
        if (width, height) != (size, size):
            raise NelboError(
                f"{path} is {height}×{width}, the model takes {size}×{size}: give --resize to crop "
                "and resize such pictures"
            )


def _split(paths: list[Path], split: str, folder: Path) -> list[Path]:
    if split == "all":
        return paths
    if len(paths) < 2:
        raise NelboError(f"{folder} holds one picture; a {split} split needs at least two")
    every = min(HELD_OUT_EVERY, len(paths))
    return [p for i, p in enumerate(paths) if (i % every == every - 1) == (split == "test")]


def _read_all(paths: Sequence[Path], size: int) -> list[Tensor | str]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda path: _read(path, size), paths)
        few = len(paths) < 500
        console = Console(stderr=True)
        return list(
            track(results, "Reading pictures", total=len(paths), console=console, disable=few)
        )


def _read(path: Path, size: int) -> Tensor | str:
    """The picture as (C, size, size) uint8, or why it cannot be read."""
    try:
        with Image.open(path) as opened:
            return _prepare(ImageOps.exif_transpose(opened), size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow puts the whole path in some messages; the list names the file already.
        return str(error).replace(repr(str(path)), "file").replace(str(path), "file")


def _prepare(image: Image.Image, size: int) -> Tensor:
    grey = image.mode in _GREY_MODES
    if image.mode in ("I;16", "I"):  # 16 bits a pixel
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        image = Image.alpha_composite(white, coloured)
    image = image.convert("L" if grey else "RGB")
    square = _centre_square(image).resize((size, size), Image.Resampling.LANCZOS)
    array = np.array(square, dtype=np.uint8)
    return torch.from_numpy(array[None] if grey else array.transpose(2, 0, 1).copy())


def _centre_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _with_channels(image: Tensor, channels: int) -> Tensor:
    if image.shape[0] == channels:
        return image
    if channels == 3:
        return image.expand(3, -1, -1)
    # ITU-R 601 luma, as Pillow's "L".
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (image.float() * weights).sum(0, keepdim=True).round().to(torch.uint8)
