"""Locks of a file or a folder, by which processes keep out of one another's way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: there every process has the lock
    fcntl = None  # type: ignore[assignment]


@contextmanager
def lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process alone has the lock of a file or folder while the block lasts.

    That of a process which ends, or is killed, is gone with it. On a file system without locks
    every process has it.

    Args:
        path: a file or a folder that is there.
        wait: until it is free, so that it is had in any case.
    """
    if fcntl is None:
        yield True
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield _flocked(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    finally:
        os.close(handle)


def _flocked(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True
