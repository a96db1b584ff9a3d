"""nelbo data: what a source of images holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType
from rich.table import Table

from nelbo.base.console import notice_first
from nelbo.commands.common import answer
from nelbo.commands.options.data import Data
from nelbo.data import ImageData, load_data
from nelbo.data.description import describe, splits_of
from nelbo.data.mentions import mention
from nelbo.data.sources import check_not_among, with_crops
from nelbo.report.grids import save_grid
from nelbo.report.tables import new_table
from nelbo.text import shorten

# The length that the table cuts captions to.
_CAPTION_LENGTH = 70
# Broken files, and lines of none, that are shown.
_BROKEN = 20


def run(options: Data) -> None:
    """Print it, and write the sheet."""
    source = with_crops(options.data, options.crops)
    if options.sheet is not None:
        check_not_among(source, options.sheet, "--sheet")
    data = load_data(source, "all", size=options.size, channels=options.channels, strict=False)
    content = describe(data, splits_of(data, source, options.size))
    shown = _shown(content)
    if options.sheet is not None:
        write_sheet(data, options.sheet, options.sheet_images)
        content["sheet"] = str(options.sheet)
        shown.append(f"Contact sheet: {options.sheet}")
    answer(options.json, content, *shown)
    if not options.json:
        mention(data, shown=_BROKEN)
        _mention_unmatched(data)


def write_sheet(data: ImageData, path: Path, images: int) -> None:
    """A contact sheet of at most this number of images, evenly spaced."""
    count = min(images, len(data))
    index = torch.arange(count) * len(data) // count
    save_grid(data.images[index], path, data.levels)


def _shown(content: dict[str, Any]) -> list[RenderableType]:
    shown: list[RenderableType] = [_facts(content)]
    if content["labels"]:
        shown.append(_label_table(content["labels"]))
    if content["captions"]:
        shown.append("captions")
        first = content["captions"]["first"]
        shown += [f"  {shorten(text, _CAPTION_LENGTH)}" for text in first]
    return shown


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
        "unreadable": f"{(bad := len(content['skipped'])):,} file" + "s" * (bad != 1),
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
