"""What people should know of images beside what is done with them: what was left out, and why."""

from __future__ import annotations

from nelbo.base.console import notice, notice_first
from nelbo.data.duplicates import duplicates_line
from nelbo.data.image_data import ImageData


def mention(*data: ImageData, shown: int = 5) -> None:
    """Name what was left out and the files that could not be read, once for all splits; and how
    many test images are in other splits as well."""
    for note in dict.fromkeys(note for split in data for note in split.notes):
        notice(f"note: {data[0].source}: {note}")
    if skipped := list(dict.fromkeys(line for split in data for line in split.skipped)):
        files = "1 file" if len(skipped) == 1 else f"{len(skipped)} files"
        notice_first(f"skipped {files} of {data[0].source} that cannot be read:", skipped, shown)
    for line in filter(None, map(duplicates_line, data)):
        notice(line)
