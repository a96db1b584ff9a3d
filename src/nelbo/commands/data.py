"""nelbo data: what a source of images holds."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from nelbo.base.console import notice_first
from nelbo.commands.common import print_json, show
from nelbo.commands.options.data import Data
from nelbo.data import ImageData, load_data
from nelbo.data.duplicates import is_among
from nelbo.data.mentions import mention_skipped
from nelbo.data.sources import check_not_among, with_crops
from nelbo.data.splits import PARTS, EmptySplitError
from nelbo.report.grids import save_grid
from nelbo.report.tables import new_table
from nelbo.text import shorten

# Captions shown, and the length that the table cuts them to.
_CAPTIONS = 5
_CAPTION_LENGTH = 70
# Broken files, and lines of none, that are shown.
_BROKEN = 20


def run(options: Data) -> None:
    """Print it, and write the sheet."""
    if options.crops is not None:
        run(replace(options, data=with_crops(options.data, options.crops), crops=None))
        return
    if options.sheet is not None:
        check_not_among(options.data, options.sheet, "--sheet")
    data = load_data(
        options.data, "all", size=options.size, channels=options.channels, strict=False
    )
    content = describe(data, _splits(options, data))
    if options.sheet is not None:
        write_sheet(data, options.sheet, options.sheet_images)
        content["sheet"] = str(options.sheet)
    if options.json:
        print_json(content)
        return
    _print(content)
    mention_skipped(data, shown=_BROKEN)
    _mention_unmatched(data)
    if options.sheet is not None:
        show(f"Contact sheet: {options.sheet}")


def _splits(options: Data, data: ImageData) -> dict[str, ImageData]:

    if len(data) < 2:
        return {}  # there is nothing to split
    found = {}
    for split in PARTS:
        # A small set may lack one.
        with contextlib.suppress(EmptySplitError):
            found[split] = load_data(
                options.data, split, size=options.size, channels=data.shape[0], strict=False
            )
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


def write_sheet(data: ImageData, path: Path, images: int) -> None:
    """A contact sheet of at most this number of images, evenly spaced."""
    count = min(images, len(data))
    index = torch.arange(count) * len(data) // count
    save_grid(data.images[index], path, data.levels)


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


def _print(content: dict[str, Any]) -> None:
    show(_facts(content))
    if content["labels"]:
        show(_label_table(content["labels"]))
    if content["captions"]:
        show("captions")
        for text in content["captions"]["first"]:
            show(f"  {shorten(text, _CAPTION_LENGTH)}")


def _mention_unmatched(data: ImageData) -> None:
    """Name the lines of captions and labels that are of no picture."""
    if not data.unmatched:
        return
    notice_first(
        f"{_lines_of_none(data.unmatched)} in {data.source}; nelbo train refuses such lines until "
        "they are taken out or the pictures are back:",
        data.unmatched,
        _BROKEN,
    )


def _lines_of_none(lines: Sequence[str]) -> str:
    return "1 line names no picture" if len(lines) == 1 else f"{len(lines):,} lines name no picture"


def _facts(content: dict[str, Any]) -> Table:

    shape, captions = content["shape"], content["captions"]
    splits = ", ".join(f"{count:,} {name}" for name, count in content["splits"].items())
    facts = {
        "source": content["source"],
        "images": f"{content['images']:,}" + (f" ({splits})" if splits else ""),
        "splits": content["split_note"],
        "duplicates": f"{content['test_duplicates']:,} test images are in train or validation, too"
        if content["test_duplicates"]
        else None,
        "shape": f"{shape['channels']}×{shape['height']}×{shape['width']}",
        "levels": str(content["levels"]),
        "classes": str(len(content["labels"])) if content["labels"] else "none",
        "captions": "none"
        if captions is None
        else f"{captions['images']:,}, {captions['different']:,} different",
        "longest": shorten(captions["longest"], _CAPTION_LENGTH) if captions else None,
        "unreadable": f"{len(content['skipped']):,} files",
        "unmatched": _lines_of_none(content["unmatched"]) if content["unmatched"] else None,
        "credit": content["credit"],
    }
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value is not None:
            table.add_row(name, value)
    return table


def _label_table(labels: dict[str, dict[str, int]]) -> Table:
    table = new_table(["class"], list(next(iter(labels.values()))), wraps=True)
    for name, counts in labels.items():
        table.add_row(name, *(f"{count:,}" for count in counts.values()))
    return table
