"""Which images are held out: a property of an image's name, so that a growing set keeps its splits.

u(name), the first eight bytes of BLAKE2b(name) as a fraction of 2⁶⁴, is uniform over [0, 1). An
image is held out where u < 0.1; docs/decisions/0009-splits-by-name.md says why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from nelbo.errors import NelboError

HELD_OUT = 0.1


def share(name: str) -> float:
    """u(name) in [0, 1)."""
    return int.from_bytes(_digest(name)) / 2**64


def name_key(name: str) -> int:
    """The eight bytes that u(name) comes from, as an int64."""
    return int.from_bytes(_digest(name), signed=True)


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def held_out(names: Sequence[str]) -> list[bool]:
    """Whether each image belongs to the test split.

    In a small set where the rule would leave a split empty, the image of least u is held out, or
    that of greatest u is not.

    Raises:
        NelboError: fewer than two images.
    """
    if len(names) < 2:
        raise NelboError(f"a train and a test split need at least two images, got {len(names)}")
    shares = [share(name) for name in names]
    held = [u < HELD_OUT for u in shares]
    if not any(held):
        held[shares.index(min(shares))] = True
    if all(held):
        held[shares.index(max(shares))] = False
    return held
