"""Controls that the metadata of a folder names, as the Hub's imagefolder has them.

    {"file_name": "a.png", "text": "a cat", "conditioning_image": "../sketches/a.png"}

A path is relative to the folder of its metadata.jsonl or metadata.csv. `control_file_name` is a
synonym of a field `control`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.data.decode import in_threads, read_picture
from nelbo.data.image_data import ImageData
from nelbo.data.listing import list_pictures
from nelbo.data.metadata import Row, named_rows
from nelbo.data.names import Names, printable
from nelbo.data.reader import CONTRAST
from nelbo.data.size import Size


def controls_in_metadata(
    folder: Path, column: str, data: ImageData, channels: int
) -> UInt8[Tensor, "n channels height width"] | None:
    """The pictures that a field of the metadata names, one for each image in its order.

    Args:
        folder: of the images.
        column: the field.
        data: the images, whose size the controls get.
        channels: of the controls.

    Returns:
        0..255; None where no line of metadata has the field.

    Raises:
        NelboError: an image without a control, or a control that cannot be read.
    """
    paths = _paths(folder, column)
    if not paths:
        return None
    missing = [name for name in data.names if name not in paths]
    if missing:
        raise NelboError(
            f"the metadata of {folder} names a {column} for {len(paths)} pictures, and none for "
            f"{len(missing)} of the {len(data)} images; the first is {missing[0]}: add it, and "
            "keep the controls themselves outside of the folder"
        )
    size: Size = (data.shape[1], data.shape[2])
    found = in_threads(
        (paths[name] for name in data.names),
        lambda item: (item, read_picture(item[1], size, channels, background=CONTRAST)),
        total=len(data),
        size=size,
    )
    pictures = []
    for (row, path), picture in found:
        if isinstance(picture, str):
            raise NelboError(f"{row.where} names the {column} {path}: {picture}")
        pictures.append(torch.from_numpy(picture.pixels))
    return torch.stack(pictures)


def _paths(folder: Path, column: str) -> Mapping[str, tuple[Row, Path]]:
    """The control of each picture that has one, with the line that names it."""
    listing = list_pictures(folder)
    if not listing.metadata:
        return {}
    known = Names(folder, [file.name for file in listing.files])
    found: dict[str, tuple[Row, Path]] = {}
    for file in listing.metadata:
        for row, name in named_rows(folder, file, known):
            written = row.fields.get(column, row.fields.get(f"{column}_file_name"))
            if written is None or name is None:
                continue
            if not isinstance(written, str):
                raise NelboError(f"{row.where} has {column} {written!r}; expected a path")
            found[printable(name)] = row, (folder / file).parent / written
    return found
