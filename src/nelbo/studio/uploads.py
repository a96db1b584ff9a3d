"""Pictures that come in with a request: bytes, checked by their header, decoded when needed.

Pillow, numpy and torch are imported where a picture is read, for the server itself needs none.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nelbo.base.errors import NelboError

if TYPE_CHECKING:
    from torch import Tensor

_WHITE = 128


@dataclass(frozen=True)
class Upload:
    """A picture of a request, not decoded yet.

    Attributes:
        name: what its user calls it, for messages alone.
        content: its bytes.
    """

    name: str
    content: bytes

    def check(self, most_pixels: int) -> None:
        """Raise `NelboError` for what is no picture, or too large a one; decodes no pixels."""
        from PIL import Image, UnidentifiedImageError

        from nelbo.data.formats import formats

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(self.content), formats=formats()) as opened:
                    width, height = opened.size
        except UnidentifiedImageError as error:
            raise NelboError(
                f"{self.name} is no picture that can be read here: give a PNG, JPEG or WebP"
            ) from error
        except Exception as error:  # Pillow's readers raise whatever they meet in a damaged file
            raise self._unreadable(error) from error
        if width * height > most_pixels:
            raise NelboError(
                f"{self.name} has {width:,}×{height:,} pixels, at most {most_pixels:,} in all are "
                "taken: scale it down"
            )

    def pixels(self, shape: Sequence[int]) -> Tensor:
        """The picture 0..255, upright, cut in the middle and scaled to `shape`, (C, H, W) uint8."""
        channels, height, width = shape
        return self._prepared((height, width), channels, "white")

    def mask(self, size: Sequence[int]) -> Tensor:
        """Where the picture is white and opaque, (H, W) bool."""
        height, width = size
        return self._prepared((height, width), 1, "black")[0] >= _WHITE

    def _prepared(self, size: tuple[int, int], channels: int, background: str) -> Tensor:
        import torch

        from nelbo.data.decode import prepare
        from nelbo.data.reader import open_picture

        try:
            file = io.BytesIO(self.content)
            opened = open_picture(file, (1, 1), background=background, drawings=False)
            return torch.from_numpy(prepare(opened.image, size, channels).copy())
        except Exception as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> NelboError:
        from nelbo.data.reader import why

        reason = why(error, io.BytesIO(self.content))
        return NelboError(f"{self.name} cannot be read as a picture: {reason}")


async def read_uploads(files: Iterable[tuple[str, Any]]) -> dict[str, list[Upload]]:
    """The pictures of each field of a form.

    Raises:
        NelboError: a field that is no file.
    """
    found: dict[str, list[Upload]] = {}
    for field, file in files:
        if isinstance(file, str):
            raise NelboError(f"unknown field {field!r}: settings are one JSON field, settings")
        name = (file.filename or field).replace("\\", "/").rpartition("/")[2][:80] or field
        found.setdefault(field, []).append(Upload(name, await file.read()))
    return found
