"""Which images are for what: a property of an image's name, so that a growing set keeps its splits.

    train         what a model is fitted to
    validation    what its settings, its best checkpoint and fitted levels are chosen by
    test          what figures are reported on

u(name), the first eight bytes of BLAKE2b(name) as a fraction of 2⁶⁴, is uniform over [0, 1). An
image is for test where u < 0.1 and for validation where 0.1 ≤ u < 0.2;
docs/decisions/0009-splits-by-name.md says why. Where another rule decides what is for test, u
decides about validation among the other images alone.
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

    In a small set where the rule would leave a split empty, the image of least u is for test and
    that of the next for validation; train keeps at least one, and with two images none is for
    validation.

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

    Images for test keep their split, whatever decided it; where train holds one image, it stays.
    """
    rest = [i for i, split in enumerate(splits) if split == TRAIN]
    given = list(splits)
    if len(rest) > 1:
        chosen = _chosen([names[i] for i in rest], VALIDATION)
        for i, is_chosen in zip(rest, chosen, strict=True):
            given[i] = VALIDATION if is_chosen else TRAIN
    return given


def fill_split(names: Sequence[str], splits: Sequence[str], wanted: str) -> list[str]:
    """The splits with the image of least u of train given to one that is empty.

    Where train holds one image, it stays.
    """
    given = list(splits)
    rest = [i for i, split in enumerate(splits) if split == TRAIN]
    if wanted not in splits and len(rest) > 1:
        given[min(rest, key=lambda i: share(names[i]))] = wanted
    return given


def _chosen(names: Sequence[str], split: str) -> list[bool]:
    """Whether each is for a split by its u; in place of none that of least u, and never all."""
    low, high = _BOUNDS[split]
    shares = [share(name) for name in names]
    chosen = [low <= u < high for u in shares]
    if not any(chosen):
        chosen[shares.index(min(shares))] = True
    if all(chosen):
        chosen[shares.index(max(shares))] = False
    return chosen
