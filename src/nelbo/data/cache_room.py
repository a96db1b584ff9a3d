"""Where decoded pictures are kept, one process at a time, and the room that they may take."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from nelbo.base.errors import NelboError

LIMIT_GB = 20.0
# Files of an entry, and what is in the name of one that is being written.
IMAGES, INDEX, PARTIAL = "images.bin", "index.json", ".partial-"
_ABANDONED = 24 * 3600.0  # seconds after which a partial entry has no writer any more


def cache_directory() -> Path:
    """The directory of the entries, created if need be.

    If the default directory cannot be written, as under a read-only home, use a temporary directory
    and warn.

    Raises:
        NelboError: the directory named in NELBO_CACHE cannot be written.
    """
    chosen = os.environ.get("NELBO_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = (Path(chosen).expanduser() if chosen else Path(base) / "nelbo") / "images"
    try:
        return _writable(root)
    except OSError as error:
        if chosen:
            raise NelboError(
                f"NELBO_CACHE is {chosen}, which cannot be written: {error.strerror or error}"
            ) from error
        user = os.getuid() if hasattr(os, "getuid") else "user"
        instead = Path(tempfile.gettempdir()) / f"nelbo-{user}" / "images"
        warnings.warn(
            f"decoded pictures are kept in {instead}, because {root} cannot be written; name "
            "another directory in NELBO_CACHE",
            stacklevel=2,
        )
        return _writable(instead)


def _writable(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=root).close()
    return root


def check_room(root: Path, at_most: int | None, shape: tuple[int, int, int]) -> None:
    """Raise `NelboError` where the disk has no room for `at_most` pictures of a shape."""
    if at_most is None:
        return
    needed, free = at_most * int(np.prod(shape)), shutil.disk_usage(root).free
    if needed > free:
        channels, height, width = shape
        raise NelboError(
            f"{at_most:,} pictures of {channels}×{height}×{width} need {needed / 1e9:,.1f} GB in "
            f"{root}, where {free / 1e9:,.1f} GB are free. Choose a smaller size, or name a "
            "directory with more room in NELBO_CACHE"
        )


def evict(root: Path, keep: Path) -> None:
    """Remove what was not used for longest until all entries fit the limit."""
    limit = _limit()
    entries = []
    for directory in root.iterdir():
        # Another process may remove entries at the same time.
        with contextlib.suppress(OSError):
            if PARTIAL in directory.name:
                if time.time() - directory.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(directory, ignore_errors=True)
            elif directory.is_dir():
                used = (directory / INDEX).stat().st_mtime
                entries.append((used, (directory / IMAGES).stat().st_size, directory))
    total = sum(size for _, size, _ in entries)
    for _, size, directory in sorted(entries):
        if total <= limit:
            break
        if directory != keep:
            # A process that has it mapped keeps its pixels until it ends.
            shutil.rmtree(directory, ignore_errors=True)
            total -= size


def _limit() -> float:
    text = os.environ.get("NELBO_CACHE_GB", str(LIMIT_GB))
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise NelboError(f"NELBO_CACHE_GB is {text!r}; expected a number of gigabytes, such as 20")
    return limit * 1e9
