"""What people should know of images beside what is done with them: what was left out, and why."""

from __future__ import annotations

from nelbo.base.console import notice, notice_first
from nelbo.data.duplicates import duplicates_line
from nelbo.data.image_data import ImageData


def mention_skipped(*data: ImageData, shown: int = 5) -> None:
    """Name what was left out and the files that could not be read, once for all splits."""
    for note in dict.fromkeys(note for split in data for note in split.notes):
        notice(f"note: {data[0].source}: {note}")
    skipped = list(dict.fromkeys(line for split in data for line in split.skipped))
    if not skipped:
        return
    files = "1 file" if len(skipped) == 1 else f"{len(skipped)} files"
    notice_first(f"skipped {files} of {data[0].source} that cannot be read:", skipped, shown)


def mention_duplicates(data: ImageData) -> None:
    """Report how many test images are in other splits as well, if any."""
    if line := duplicates_line(data):
        notice(line)
