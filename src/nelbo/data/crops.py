"""The crops of a picture, their names, and which of them are kept.

A training picture gives several crops, "a.jpg#1", "a.jpg#2", ...; a validation or test picture
gives only the first, so that these crops are independent and standard errors hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from nelbo.data.cache import Picture
from nelbo.data.decode import Decoded
from nelbo.data.splits import TRAIN


def kept_crops(whole: Picture, found: list[Decoded] | str, crops: int) -> list[Picture]:
    """The crops of a picture on their way into the cache, or why it cannot be read.

    Args:
        whole: the picture, without its pixels.
        found: its crops, or the reason.
        crops: number requested; a single crop has the name of the picture.
    """
    if isinstance(found, str):
        return [replace(whole, pixels=found)]
    return [
        replace(
            whole,
            name=f"{whole.name}#{k}" if crops > 1 else whole.name,
            pixels=crop.pixels,
            size=crop.size,
            notes=(*crop.notes, *whole.notes),
        )
        for k, crop in enumerate(found if whole.split == TRAIN else found[:1], 1)
    ]


def base_of(name: str, crops: int) -> str:
    """The picture that a crop is of."""
    return name.rpartition("#")[0] if crops > 1 else name


def settle_crops(
    split: Callable[[Sequence[str]], Sequence[str]], crops: int
) -> Callable[[Sequence[str], Sequence[str]], list[str]]:
    """Splits by the pictures that can be read, for the cache.

    Args:
        split: from the names of pictures, sorted, to their splits.
        crops: largest number for each.
    """

    def settle(names: Sequence[str], _: Sequence[str]) -> list[str]:
        bases = [base_of(name, crops) for name in names]
        pictures = sorted(set(bases), key=lambda name: name.split("/"))
        of_each = dict(zip(pictures, split(pictures), strict=True)) if pictures else {}
        return [
            of_each[base] if of_each[base] == TRAIN or name == base or name == f"{base}#1" else ""
            for name, base in zip(names, bases, strict=True)
        ]

    return settle
