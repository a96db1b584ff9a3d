"""How a run takes the place of another one in its directory.

It grows in a folder of its own, which is renamed once it has won; then the old one is removed, and
the new one moves. Whatever cuts that short, every stage can be done again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

# The folder of the new run at each stage: it grows, it has won, the old one is gone.
STAGES = GROWING, WINNING, MOVING = ".new-run", ".new-run-complete", ".new-run-moving"


def is_replaced(path: Path) -> bool:
    """Whether a run lies in a directory that is to replace the one there."""
    return any((path / stage).is_dir() for stage in STAGES)


def finish_replacing(path: Path, own: Iterable[str]) -> None:
    """Bring a replacement that was cut short to its end.

    A run that was still growing never was one: what is left of it is removed.

    Args:
        path: the directory of the run that is replaced.
        own: the names of what belongs to a run; other files stay.
    """
    growing, winning, moving = (path / stage for stage in STAGES)
    if growing.is_dir():
        shutil.rmtree(growing)
    if winning.is_dir():
        for name in own:
            old = path / name
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        winning.rename(moving)
    if moving.is_dir():
        for new in moving.iterdir():
            new.rename(path / new.name)
        moving.rmdir()
