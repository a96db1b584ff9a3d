"""The same picture in two splits: found by its pixels, whatever its name.

A bound on pictures that a model was trained on or selected by is no estimate of its bound on new
ones. Such test images are counted and left out of the figures that are reported.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from nelbo.base.digest import digest
from nelbo.data.image_data import ImageData
from nelbo.data.pixel_key import pixel_keys


def is_among(data: ImageData, *others: ImageData) -> Bool[Tensor, " images"]:
    """Whether the pixels of each image are those of one of the others, by `pixel_key`."""
    if not others:
        return torch.zeros(len(data), dtype=torch.bool)
    return torch.isin(_keys(data), torch.cat([_keys(other) for other in others]))


def without_duplicates(data: ImageData, *others: ImageData, keep: bool = False) -> ImageData:
    """The images that are not among the others; `duplicates` and `left_out` count those that are.

    With `keep`, or if nothing would be left, all images are kept, and duplicates are only counted.
    """
    again = is_among(data, *others)
    count = int(again.sum())
    if keep or count in (0, len(data)):
        return replace(data, duplicates=count)
    return replace(data.take(~again), duplicates=count, left_out=count)


def pixels_digest(data: ImageData) -> str:
    """A hash of the pixels of all images, whatever their names and their order."""
    return digest([_keys(data).sort().values])


def duplicates_line(data: ImageData) -> str:
    """A line on the test images that are also in other splits; empty if there are none."""
    if not data.duplicates:
        return ""
    whole = len(data) + data.left_out
    same = (
        f"{data.duplicates:,} of {whole:,} test images of {data.source} have the pixels of images "
        "for training or validation"
    )
    return f"{same}, and are left out" if data.left_out else f"{same}, and are kept"


def _keys(data: ImageData) -> Tensor:
    return pixel_keys(data.images) if data.pixel_keys is None else data.pixel_keys
