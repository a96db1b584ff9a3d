"""Pictures that go out to the page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

from jaxtyping import UInt8
from PIL import Image, PngImagePlugin
from torch import Tensor

from nelbo.report.grids import to_pil
from nelbo.version import __version__

# The key in a PNG's metadata that holds the settings of a picture.
SETTINGS_KEY = "nelbo"
# Previews are no larger, in pixels a side.
_PREVIEW_SIDE = 320


def png(
    image: UInt8[Tensor, "channels height width"],
    levels: int,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """A data URL of one image as PNG, with its settings in the metadata."""
    notes = None
    if settings is not None:
        notes = PngImagePlugin.PngInfo()
        notes.add_text("Software", f"nelbo {__version__}")
        notes.add_itxt(SETTINGS_KEY, json.dumps(settings, ensure_ascii=False))
    return picture_url(to_pil(image, levels), pnginfo=notes)


def preview(image: UInt8[Tensor, "channels height width"], levels: int) -> str:
    """A data URL of an image to look at for a moment: PNG of a small one, else a scaled JPEG."""
    shown = to_pil(image, levels)
    if max(shown.size) <= _PREVIEW_SIDE // 2:
        return picture_url(shown)
    shown.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    return picture_url(shown, "jpeg", quality=80)


def picture_url(image: Image.Image, kind: str = "png", **options: Any) -> str:
    """A data URL of any picture, as a file of Pillow's options."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
