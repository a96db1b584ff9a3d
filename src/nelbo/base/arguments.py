"""Arguments of another type or range than expected, refused by name."""

from __future__ import annotations

from numbers import Real
from typing import Any

from nelbo.base.errors import NelboError

_SHOWN = 40


def described(value: Any) -> str:
    """The type of a value and the value, or the shape of an array, for a message."""
    kind = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a {kind} of shape {tuple(value.shape)} and type {value.dtype}"
    shown = repr(value)
    return f"{kind} {shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + '…'}"


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise `NelboError` unless a value is a whole number, of at least this size."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise NelboError(f"{name} must be a whole number, got {described(value)}")
    if value < least:
        raise NelboError(f"{name} must be at least {least}, got {value}")


def check_counts(least: int = 1, **counts: Any) -> None:
    """`check_count` of each, by name."""
    for name, value in counts.items():
        check_count(name, value, least)


def check_number(name: str, value: Any) -> None:
    """Raise `NelboError` unless a value is a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise NelboError(f"{name} must be a number, got {described(value)}")


def check_kind(name: str, value: Any, kind: Any, expected: str) -> None:
    """Raise `NelboError` unless a value is of a type, or of one of several."""
    if not isinstance(value, kind):
        raise NelboError(f"{name} is {described(value)}, expected {expected}")
