r"""What a family is fitted to: images in network space, with a part held out for choices.

An `ImageData` brings its pixel levels; a tensor is real numbers unless a data space is given with
it. Choices (smoothing, early stopping) are made on held-out images: those of the validation split
where the data name one, else a tenth drawn at random, which is fitted too once they are made. Test
images are never used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.arguments import check_kind
from nelbo.base.errors import NelboError
from nelbo.chain.data_space import Continuous, DataSpace, Pixels
from nelbo.data import ImageData
from nelbo.data.splits import HELD_OUT, TEST, TRAIN, VALIDATION

# The most values that are fitted, for all of them are in memory.
LARGEST_DATA = 2**29


@dataclass(frozen=True)
class Examples:
    """Images to fit, in network space.

    Attributes:
        train: what parameters are fitted to, (N, C, H, W).
        held_out: what choices are made on, (M, C, H, W); the same as `train` for a single image.
        space: what the values are.
        source: what to call the data in messages.
        declared: whether the data name the images that are held out: nothing is then fitted to
            them.
    """

    train: Float[Tensor, "n channels height width"]
    held_out: Float[Tensor, "m channels height width"]
    space: DataSpace
    source: str
    declared: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    @property
    def all(self) -> Float[Tensor, "n channels height width"]:
        """Every image to fit, for a last fit once the choices are made.

        Those are all but images of a validation split that the data name.
        """
        if self.declared or self.held_out is self.train:
            return self.train
        return torch.cat([self.train, self.held_out])

    def to(self, device: torch.device) -> Examples:
        """The same on a device."""
        train = self.train.to(device)
        alone = self.held_out is self.train
        return replace(self, train=train, held_out=train if alone else self.held_out.to(device))

    def __len__(self) -> int:
        return len(self.train)


def prepare(
    images: ImageData | Tensor, space: DataSpace | None, seed: int, *, missing: bool = False
) -> Examples:
    """Images in network space, split into those to fit and those to choose by.

    Args:
        images: integer pixel levels as `ImageData`, or (N, C, H, W) in [−1, 1].
        space: of a tensor; `Continuous()` by default.
        seed: of the images that are held out where the data do not name them.
        missing: allow nan, for values that are not known.

    Raises:
        NelboError: a tensor of another shape, no or too many images, values that do not fit the
            data space, or a data space that contradicts that of the `ImageData`.
    """
    check_space(space)
    if isinstance(images, ImageData):
        own = Pixels(images.levels)
        if space not in (None, own):
            raise NelboError(
                f"{images.source} has {images.levels} pixel levels, but data={space}: leave data "
                "out, which is for tensors"
            )
        if images.stream is not None:
            raise NelboError(
                f"{images.source} is streamed, and families are fitted to images in memory: name "
                "it without stream, or give some of its images as a tensor"
            )
        _check_size(images.images, images.source)
        x, space, source = own.to_network(images.images), own, images.source
        splits = images.splits
    elif isinstance(images, Tensor):
        x, source, splits = images.detach(), "the tensor", None
        space = Continuous() if space is None else space
        _check_size(x, source)
        _check(x, space, missing)
    else:
        raise NelboError(
            f"fit takes ImageData or a tensor (N, C, H, W), got {type(images).__name__}: load_data "
            "and torch.from_numpy make them"
        )
    if splits is not None and {TRAIN, VALIDATION} <= set(splits):
        train, held_out = (
            x[torch.tensor([split == part for split in splits])] for part in (TRAIN, VALIDATION)
        )
        return Examples(train, held_out, space, source, declared=True)
    if splits is not None and TRAIN in splits and TEST in splits:
        x = x[torch.tensor([split != TEST for split in splits])]
    return Examples(*hold_out(x, seed), space, source)


def check_space(space: DataSpace | None) -> None:
    """Raise `NelboError` for what is no data space."""
    if space is not None:
        check_kind("data", space, (Pixels, Continuous), "Pixels(levels) or Continuous()")


def hold_out(x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A random nine tenths of the examples and the others; both the same for one example."""
    count = min(len(x) - 1, max(1, round(HELD_OUT * len(x))))
    if count < 1:
        return x, x
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[order[count:].sort().values], x[order[:count].sort().values]


def _check_size(x: Tensor, source: str) -> None:
    if x.numel() > LARGEST_DATA:
        fit = LARGEST_DATA // x[0].numel()
        raise NelboError(
            f"{source} has {x.numel():,} values, families are fitted to at most {LARGEST_DATA:,}, "
            f"in memory: use smaller images, or some {fit:,} of them, as ImageData.subset draws"
        )


def _check(x: Tensor, space: DataSpace, missing: bool) -> None:
    if x.ndim != 4 or not x.is_floating_point():
        raise NelboError(
            f"fit takes floats of shape (N, C, H, W), got {x.dtype} of shape {tuple(x.shape)}; "
            "Pixels(levels).to_network makes them of pixel levels"
        )
    if x.numel() == 0:
        raise NelboError(f"there are no images in a tensor of shape {tuple(x.shape)}")
    lost = int(x.isnan().sum())
    if lost and not missing:
        raise NelboError(
            f"{lost:,} values are missing (nan), and only PPCA(..., method='em') is fitted to what "
            "is known: fill them in, or leave out the images that have them"
        )
    known = x[~x.isnan()] if lost else x
    if known.numel() == 0:
        raise NelboError("every value is missing")
    space.check(known)
