"""Decoded pictures as files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.coding.reading import Decoded
from nelbo.data.names import printable
from nelbo.evidence.file_sizes import picture

# Bytes of a name in an archive that are kept; file systems take 255.
_LONGEST = 240


def write_pictures(found: Decoded, out: Path) -> list[Path]:
    """A PNG file for each picture, in the folders that their names have; the files.

    Names are somebody else's: none leads out of `out`, nor to a file that is there already.

    Raises:
        NelboError: a file that cannot be written.
    """
    files: list[Path] = []
    for i, image in enumerate(found.images):
        number = f"{found.index[i]:05d}"
        file = out / (number if found.names is None else _inside(found.names[i]) or number)
        if file.suffix != ".png":
            file = file.with_name(f"{file.name}.png")
        while file.exists():  # other names lead to the same file, here or in other letters
            file = file.with_stem(f"{file.stem}-{number}")
        write_picture(image, file)
        files.append(file)
    return files


def _inside(name: str) -> str:
    """A name as a path below a folder: it is somebody else's, and leads nowhere out of it."""
    parts = PurePosixPath(name.replace("\\", "/").replace(":", "_")).parts
    kept = (printable(part) for part in parts if part not in ("/", "//", ".."))
    return "/".join(_shortened(part.replace("\\", "_")) for part in kept)


def _shortened(name: str) -> str:
    """The beginning of a name that a file system takes, with room for a number and .png."""
    return name.encode()[:_LONGEST].decode(errors="ignore")


def write_picture(image: Tensor, file: Path) -> None:
    """Write a PNG file whole or not at all; errors as `write_pictures`."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(image.to("cpu", torch.uint8)).save(file)
    except OSError as error:
        with suppress(OSError):  # there may be none, nor a folder that it would be in
            file.unlink()
        raise NelboError(f"cannot write {file}: {error.strerror or error}") from error
