"""Splits: a property of an image's name, so that a growing set keeps its splits.

    train         fits the model
    validation    selects settings, the best checkpoint and fitted levels
    test          gives the figures that are reported

u(name), the first eight bytes of BLAKE2b(name) as a fraction of 2⁶⁴, is uniform over [0, 1). An
image is for test where u < 0.1 and for validation where 0.1 ≤ u < 0.2;
see docs/decisions/0009-splits-by-name.md. If another rule chooses the test images, u chooses those
for validation among the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from nelbo.base.errors import NelboError

TRAIN, VALIDATION, TEST, ALL = "train", "validation", "test", "all"
# In the order in which a set is stored.
PARTS = (TRAIN, VALIDATION, TEST)
SPLITS = (*PARTS, ALL)
HELD_OUT = 0.1
_BOUNDS = {TEST: (0.0, HELD_OUT), VALIDATION: (HELD_OUT, 2 * HELD_OUT)}


class EmptySplitError(NelboError):
    """A source whose split of that name holds no image."""


def share(name: str) -> float:
    """u(name) in [0, 1)."""
    return int.from_bytes(_digest(name)) / 2**64


def name_key(name: str) -> int:
    """The eight bytes that u(name) comes from, as an int64."""
    return int.from_bytes(_digest(name), signed=True)


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def split_by_name(names: Sequence[str], *, validation: bool = True) -> list[str]:
    """The split of each image.

    If the rule would leave a split of a small set empty, the image of least u is for test and the
    next one for validation. Train keeps at least one image; with two images none is for validation.

    Args:
        names: of the images.
        validation: whether there is a validation split; without one its images are for train.

    Raises:
        NelboError: fewer than two images.
    """
    if len(names) < 2:
        raise NelboError(f"a train and a test split need at least two images, got {len(names)}")
    splits = [TEST if is_test else TRAIN for is_test in _chosen(names, TEST)]
    return split_for_validation(names, splits) if validation else splits


def split_for_validation(names: Sequence[str], splits: Sequence[str]) -> list[str]:
    """The splits with part of train given to validation, by name.

    Test images keep their split; if train holds a single image, it stays there.
    """
    rest = [i for i, split in enumerate(splits) if split == TRAIN]
    given = list(splits)
    if len(rest) > 1:
        chosen = _chosen([names[i] for i in rest], VALIDATION)
        for i, is_chosen in zip(rest, chosen, strict=True):
            given[i] = VALIDATION if is_chosen else TRAIN
    return given


def fill_split(names: Sequence[str], splits: Sequence[str], wanted: str) -> list[str]:
    """The splits, with the image of least u moved from train to a split that is empty.

    If train holds a single image, it stays there.
    """
    given = list(splits)
    rest = [i for i, split in enumerate(splits) if split == TRAIN]
    if wanted not in splits and len(rest) > 1:
        given[min(rest, key=lambda i: share(names[i]))] = wanted
    return given


def _chosen(names: Sequence[str], split: str) -> list[bool]:
    """Whether u selects each image for a split; at least one is selected, and never all."""
    low, high = _BOUNDS[split]
    shares = [share(name) for name in names]
    chosen = [low <= u < high for u in shares]
    if not any(chosen):
        chosen[shares.index(min(shares))] = True
    if all(chosen):
        chosen[shares.index(max(shares))] = False
    return chosen
