"""Pictures one after the other: an animated GIF or WebP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from nelbo.base.errors import NelboError
from nelbo.base.files import new_file

FORMATS = {".gif": "GIF", ".webp": "WEBP"}
# Milliseconds that a frame stays, and the last one.
_FRAME, _PAUSE = 80, 1600


def check_animation(path: str | Path) -> None:
    """Raise `NelboError` unless a path names an animated format."""
    if Path(path).suffix.lower() not in FORMATS:
        raise NelboError(f"an animation must end in {' or '.join(FORMATS)}, got {path}")


def save_animation(frames: Sequence[Image.Image], path: str | Path) -> None:
    """Write frames as a loop that rests on its last one; the file is there whole or not at all.

    Raises:
        NelboError: no frames, a name that ends in no animated format, or where nothing can be
            written.
    """
    path = Path(path)
    check_animation(path)
    if not frames:
        raise NelboError("an animation needs at least one frame")
    with new_file(path) as temporary:
        frames[0].save(
            temporary,
            format=FORMATS[path.suffix.lower()],
            save_all=True,
            append_images=list(frames[1:]),
            duration=[*[_FRAME] * (len(frames) - 1), _PAUSE],
            loop=0,
            **({"lossless": True} if path.suffix.lower() == ".webp" else {}),
        )
