"""What `nelbo data` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nelbo.commands.groups import AsJson, DataName, check_png
from nelbo.training.ranges import at_least_one


@dataclass(frozen=True)
class Data:
    """Show what a source of images holds: splits, sizes, labels, captions, broken files."""

    data: DataName
    """As in `nelbo train`."""
    size: int | str | None = None
    """What to cut pictures to, 32, or 16x24, height × width; 32 by default, or what the data set
    has."""
    channels: int | None = None
    """1 for grey or 3 for colour; by default what the pictures are."""
    crops: int | None = None
    """How many crops at random places each picture gives, as in `nelbo train`."""
    sheet: Path | None = None
    """A contact sheet to write, PNG."""
    sheet_images: int = 100
    """How many images the contact sheet shows, evenly spaced through all splits."""
    json: AsJson = False

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        if self.sheet is not None:
            check_png(self.sheet, "--sheet")
        at_least_one(sheet_images=self.sheet_images)
