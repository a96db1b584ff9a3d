"""Paths whose place no file may take."""

from __future__ import annotations

import os
from pathlib import Path


def is_device(path: Path) -> bool:
    """Whether a path names a device, a pipe or a stream, whose place no file may take.

    Streams that lead to a file, such as /dev/stdout, are known by their folder.
    """
    folder = Path(os.path.realpath(path.parent))
    if folder == Path("/dev") or folder.is_relative_to("/proc"):
        return True
    return path.exists() and not (path.is_file() or path.is_dir())
