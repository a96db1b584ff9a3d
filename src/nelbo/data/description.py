"""What a source of images holds, as plain data."""

from __future__ import annotations

import contextlib
from typing import Any

from nelbo.data.duplicates import is_among
from nelbo.data.image_data import ImageData
from nelbo.data.size import Size
from nelbo.data.sources import load_data
from nelbo.data.splits import PARTS, EmptySplitError

# Captions that are named.
_CAPTIONS = 5


def splits_of(
    data: ImageData, source: str, size: int | str | Size | None = None
) -> dict[str, ImageData]:
    """The splits of a source that hold any images, by name.

    Args:
        data: all of its images.
        source: as `load_data`.
        size: as `load_data`.
    """
    if len(data) < 2:
        return {}  # there is nothing to split
    found = {}
    for split in PARTS:
        # A small set may lack one.
        with contextlib.suppress(EmptySplitError):
            found[split] = load_data(source, split, size=size, channels=data.shape[0], strict=False)
    return found


def describe(data: ImageData, splits: dict[str, ImageData]) -> dict[str, Any]:
    """What a source holds, as plain data.

    Args:
        data: all of it.
        splits: its splits by name.
    """
    channels, height, width = data.shape
    return {
        "source": data.source,
        "images": len(data),
        "splits": {name: len(split) for name, split in splits.items()},
        "split_note": data.split_note,
        "test_duplicates": _test_duplicates(splits),
        "shape": {"channels": channels, "height": height, "width": width},
        "levels": data.levels,
        "labels": _labels(data, splits),
        "captions": _captions(data),
        "skipped": list(data.skipped),
        "unmatched": list(data.unmatched),
        "notes": list(data.notes),
        "credit": data.credit,
    }


def _test_duplicates(splits: dict[str, ImageData]) -> int:
    """How many test images have the pixels of images of other splits."""
    others = [data for split, data in splits.items() if split != "test"]
    return int(is_among(splits["test"], *others).sum()) if "test" in splits else 0


def _labels(data: ImageData, splits: dict[str, ImageData]) -> dict[str, dict[str, int]] | None:
    """Class → how many images of each split have it; "no label" where some have none."""
    if data.labels is None:
        return None
    counts = {
        split: (of.labels + 1).bincount(minlength=data.num_classes + 1).tolist()
        for split, of in ({"all": data} | splits).items()
        if of.labels is not None
    }
    rows = {
        name: {split: counts[split][i + 1] for split in counts}
        for i, name in enumerate(data.label_names)
    }
    if counts["all"][0]:
        rows["no label"] = {split: counts[split][0] for split in counts}
    return rows


def _captions(data: ImageData) -> dict[str, Any] | None:
    if data.captions is None:
        return None
    texts = [caption for caption in data.captions if caption is not None]
    return {
        "images": len(texts),
        "different": len(set(texts)),
        "first": texts[:_CAPTIONS],
        "longest": max(texts, key=len, default=None),
    }
