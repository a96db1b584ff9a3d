"""What goes into an archive and comes out of it: pictures of any size, as tiles of the model's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from nelbo.base.errors import NelboError
from nelbo.chain.model import Model
from nelbo.coding.arguments import check_images, check_model, check_strings
from nelbo.data import ImageData

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64)
}
# Of a pixel level in memory: int64.
VALUE_BYTES = 8


@dataclass(frozen=True)
class Beside:
    """What an archive holds of pictures beside their pixels.

    Attributes:
        count: how many pictures there are.
        dtype: the name of the type that they were given as; of floats, values in [−1, 1].
        stacked: whether they were given as one tensor.
        names: of each, if they have any.
        labels: the class of each that the model is conditioned on, if any.
        captions: likewise.
    """

    count: int
    dtype: str
    stacked: bool
    names: Sequence[str] | None = None
    labels: Sequence[int] | None = None
    captions: Sequence[str | None] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise NelboError(f"pictures are of type {self.dtype}, expected {', '.join(_DTYPES)}")
        names = Counter(self.names or ())
        twice = [name for name, times in names.items() if times > 1]
        if twice:
            raise NelboError(
                f"the name {twice[0]!r} is given to more than one picture: names must differ, "
                "since each picture becomes a file"
            )
        for what in ("names", "labels", "captions"):
            given = getattr(self, what)
            if given is not None and len(given) != self.count:
                raise NelboError(f"{len(given)} {what} were given for {self.count} pictures")

    def to_json(self) -> dict[str, Any]:
        """For the header of an archive, which has only that there are names."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return given | ({"names": True} if self.names is not None else {})

    @classmethod
    def from_json(cls, header: dict[str, Any]) -> Beside:
        """From the header of an archive, without the names."""
        header = {name: value for name, value in header.items() if name != "names"}
        return cls(**{f.name: header[f.name] for f in fields(cls) if f.name in header})

    def given(self, picture: Sequence[int]) -> tuple[Tensor | None, list[str | None] | None]:
        """The labels and the captions of some pictures."""
        labels = None if self.labels is None else torch.tensor([self.labels[i] for i in picture])
        captions = None if self.captions is None else [self.captions[i] for i in picture]
        return labels, captions


def pictures_of(
    model: Model,
    images: Any,
    names: Sequence[str] | None = None,
    captions: Sequence[str | None] | None = None,
) -> tuple[list[Tensor], Beside, Tiling]:
    """The pixel levels of what `compress` was given, each (C, h, w) int64, and what is beside.

    Raises:
        NelboError: no pictures, or such as the model gives no probability.
    """
    check_model(model)
    check_images(images)
    check_strings("names", names)
    check_strings("captions", captions, may_lack=True)
    check_captions(model, captions)
    labels = None
    if isinstance(images, ImageData):
        model.data.check_levels(images.levels, images.source)
        names = images.names if names is None else names
        labels = images.labels.tolist() if model.num_classes and images.labels is not None else None
        captions = images.captions if model.reads_text and captions is None else captions
        images = images.images
    if len(images) == 0:
        raise NelboError("there are no pictures to compress: the list is empty")
    if model.data.is_density:
        raise NelboError(
            "the model is of real numbers, which have no last bit to keep: compress pictures "
            "with a model of pixel levels, data=Pixels(levels)"
        )
    kinds = {_type_of(image) for image in images}
    if len(kinds) > 1 or not kinds <= _DTYPES.keys():
        raise NelboError(
            f"pictures are of type {', '.join(sorted(kinds))}, expected tensors (C, H, W) of one "
            f"of the types {', '.join(_DTYPES)}"
        )
    beside = Beside(
        len(images), kinds.pop(), isinstance(images, Tensor), _list(names), labels, _list(captions)
    )
    pixels = [_levels(model, image) for image in images]
    assert model.shape is not None
    return pixels, beside, Tiling([(p.shape[1], p.shape[2]) for p in pixels], model.shape)


def check_captions(model: Model, captions: Any) -> None:
    """Raise `NelboError` for captions that the model does not read."""
    if captions is not None and not model.reads_text:
        raise NelboError(f"{model.noun} reads no text, and was given captions: leave them out")


def _type_of(image: Any) -> str:
    kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
    return str(kind).removeprefix("torch.")


def _list(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


def _levels(model: Model, image: Tensor) -> Tensor:
    """The pixel levels of a picture, checked."""
    assert model.shape is not None
    if image.ndim != 3 or len(image) != model.shape[0] or 0 in image.shape:
        raise NelboError(
            f"a picture has shape {tuple(image.shape)}, expected ({model.shape[0]}, H, W)"
        )
    if image.is_floating_point():
        model.data.check(image)
        return model.data.to_levels(image)
    model.data.to_network(image)  # which checks the levels
    return image.long()


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut into tiles of the model's size, row by row.

    A picture that the size does not divide is continued by its last row and column.

    Attributes:
        sizes: (h, w) of each picture.
        shape: (C, H, W) of a tile.
    """

    sizes: Sequence[tuple[int, int]]
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """For the header of an archive: one size where all have it, none where it is a tile's."""
        same = set(self.sizes)
        if same == {self.shape[1:]}:
            return {}
        return {"sizes": [list(size) for size in (same if len(same) == 1 else self.sizes)]}

    @classmethod
    def from_json(cls, header: dict[str, Any]) -> Tiling:
        """Of the pictures of an archive."""
        shape = tuple(header["shape"])
        sizes = [(h, w) for h, w in header.get("sizes", [shape[1:]])]
        return cls(sizes * header["count"] if len(sizes) == 1 else sizes, shape)

    @property
    def counts(self) -> list[int]:
        """How many tiles each picture has."""
        return [rows * columns for rows, columns in map(self._grid, self.sizes)]

    @property
    def pictures(self) -> list[int]:
        """Which picture each tile is of."""
        return [i for i, count in enumerate(self.counts) for _ in range(count)]

    def begun(self, tiles: Sequence[int]) -> list[int]:
        """The pictures whose first tile is one of these."""
        of_tile = self.pictures
        return [of_tile[i] for i in tiles if i == 0 or of_tile[i - 1] != of_tile[i]]

    def cut(self, pixels: Sequence[Tensor]) -> Tensor:
        """The tiles of all pictures, (n, C, H, W)."""
        channels, height, width = self.shape
        tiles = []
        for image, size in zip(pixels, self.sizes, strict=True):
            rows, columns = self._grid(size)
            more = (0, columns * width - size[1], 0, rows * height - size[0])
            whole = pad(image[None].double(), more, mode="replicate")[0].to(image.dtype)
            parts = whole.view(channels, rows, height, columns, width).permute(1, 3, 0, 2, 4)
            tiles.append(parts.reshape(-1, *self.shape))
        return torch.cat(tiles)

    def join(self, tiles: Tensor) -> list[Tensor]:
        """The pictures from all tiles."""
        channels, height, width = self.shape
        pictures = []
        for (h, w), some in zip(self.sizes, tiles.split(self.counts), strict=True):
            rows, columns = self._grid((h, w))
            parts = some.view(rows, columns, *self.shape).permute(2, 0, 3, 1, 4)
            whole = parts.reshape(channels, rows * height, columns * width)
            pictures.append(whole[:, :h, :w])
        return pictures

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return math.ceil(size[0] / self.shape[1]), math.ceil(size[1] / self.shape[2])


def as_given(model: Model, pixels: Tensor, dtype: str) -> Tensor:
    """Pixel levels as the type that they came in."""
    kind = _DTYPES[dtype]
    return (model.data.to_network(pixels) if kind.is_floating_point else pixels).to(kind)
