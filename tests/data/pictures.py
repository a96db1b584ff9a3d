"""Small pictures on disk for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write(path: Path, value: int = 100, side: int = 6, colour: bool = False) -> Path:
    """A picture of one grey level, or of one red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((side, side), value, dtype=np.uint8)
    if colour:
        array = np.stack([array, np.zeros_like(array), np.zeros_like(array)], -1)
    Image.fromarray(array).save(path)
    return path
