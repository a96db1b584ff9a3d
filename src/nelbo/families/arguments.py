"""Checks of the arguments that several families have."""

from __future__ import annotations

from typing import Any

from nelbo.base.arguments import check_count, check_number
from nelbo.base.errors import NelboError

# Sides of the images that convolutions take.
LARGEST_SIDE = 256
# More layers than any network here could be trained with, each an object of its own.
_MOST_LAYERS = 1000


def check_not_negative(**numbers: float) -> None:
    """Raise `NelboError` for a number that is negative or none."""
    for name, value in numbers.items():
        check_number(name, value)
        if not value >= 0:
            raise NelboError(f"{name} must not be negative, got {value}")


def check_positive(**numbers: float) -> None:
    """Raise `NelboError` for a number that is not above zero."""
    for name, value in numbers.items():
        check_number(name, value)
        if not value > 0:
            raise NelboError(f"{name} must be positive, got {value}")


def check_depth(**counts: Any) -> None:
    """Raise `NelboError` for a number of layers that is none, or that nothing could hold."""
    for name, value in counts.items():
        check_count(name, value)
        if value > _MOST_LAYERS:
            raise NelboError(f"{name} must be at most {_MOST_LAYERS:,}, got {value:,}")


def check_dropout(dropout: float) -> None:
    """Raise `NelboError` for a share that leaves nothing or is none."""
    check_number("dropout", dropout)
    if not 0 <= dropout < 1:
        raise NelboError(f"dropout must lie in [0, 1), got {dropout}")


def check_side(name: str, shape: tuple[int, int, int], instead: str = "") -> None:
    """Raise `NelboError` for images (C, H, W) that convolutions would take too long for.

    Args:
        name: of the family.
        shape: of one image.
        instead: what else could be used, beside smaller images.
    """
    if (side := max(shape[1:])) > LARGEST_SIDE:
        raise NelboError(
            f"{name} takes images of at most {LARGEST_SIDE} pixels a side, got {side}: use smaller "
            f"images{instead}"
        )
