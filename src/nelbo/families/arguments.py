"""Checks of the arguments that several families have."""

from __future__ import annotations

from nelbo.base.arguments import check_number
from nelbo.base.errors import NelboError

# Sides of the images that convolutions take.
LARGEST_SIDE = 256


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
