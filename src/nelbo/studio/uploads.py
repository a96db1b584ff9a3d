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
    from PIL.Image import Image
    from torch import Tensor

_WHITE = 128
# A picture that is kept in the metadata of others: its side, and the letters of its URL.
_KEPT_SIDE, _KEPT_BYTES = 512, 100_000


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

    def drawing(self, shape: Sequence[int]) -> Tensor:
        """As `pixels`, with transparent areas black under light lines, which white would hide."""
        from nelbo.data.reader import CONTRAST

        channels, height, width = shape
        return self._prepared((height, width), channels, CONTRAST)

    def kept(self, shape: Sequence[int]) -> str | None:
        """A data URL of which `drawing(shape)` is the same, without any metadata of the file.

        None where it takes too many bytes for the metadata of a picture.
        """
        from nelbo.data.reader import CONTRAST
        from nelbo.report.grids import to_pil
        from nelbo.studio.pictures import picture_url

        whole = self._opened(CONTRAST)
        # A larger one is kept as the model reads it.
        small = whole if max(whole.size) <= _KEPT_SIDE else None
        for image in (small, to_pil(self.drawing(shape), 256)):
            if image is not None and len(url := picture_url(image)) <= _KEPT_BYTES:
                return url
        return None

    def mask(self, size: Sequence[int]) -> Tensor:
        """Where the picture is white and opaque, (H, W) bool."""
        height, width = size
        return self._prepared((height, width), 1, "black")[0] >= _WHITE

    def _prepared(self, size: tuple[int, int], channels: int, background: str) -> Tensor:
        import torch

        from nelbo.data.decode import prepare

        image = self._opened(background)
        try:
            return torch.from_numpy(prepare(image, size, channels).copy())
        except Exception as error:
            raise self._unreadable(error) from error

    def _opened(self, background: str) -> Image:
        from nelbo.data.reader import open_picture

        try:
            file = io.BytesIO(self.content)
            return open_picture(file, (1, 1), background=background, drawings=False).image
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
        # The character set of a client may have halves of letters, which no answer holds.
        name = name.encode("utf-8", "replace").decode("utf-8")
        found.setdefault(field, []).append(Upload(name, await file.read()))
    return found
