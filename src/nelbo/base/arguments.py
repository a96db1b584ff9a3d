"""Arguments of another type or range than expected, refused by name."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable
from contextlib import suppress
from numbers import Real
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import unknown

_SHOWN = 40
# The largest whole number of 64 bits.
_LARGEST = 2**63 - 1
# What arrays and numbers raise that are no one number, or too large for a float.
_NO_NUMBER = (TypeError, ValueError, RuntimeError, OverflowError)


def described(value: Any) -> str:
    """The type of a value and the value, or the shape of an array, for a message."""
    kind = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a {kind} of shape {tuple(value.shape)} and type {value.dtype}"
    text = shown(value)
    return text if value is None or text.startswith(kind) else f"{kind} {text}"


def shown(value: Any) -> str:
    """The beginning of a value, as Python writes it."""
    text, *more = repr(value).split("\n")
    if more:  # as of a module
        text += "…"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def is_whole(value: Any) -> bool:
    """Whether a value is one whole number, of Python or of an array; True and False are none."""
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)
    except _NO_NUMBER:
        return False
    return True


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise `NelboError` unless a value is a whole number, of at least this size."""
    if not is_whole(value):
        raise NelboError(f"{name} must be a whole number, got {described(value)}")
    if value < least:
        raise NelboError(f"{name} must be at least {least}, got {value}")
    if value > _LARGEST:
        raise NelboError(f"{name} must be below 2^63, got {described(value)}")


def check_counts(least: int = 1, **counts: Any) -> None:
    """`check_count` of each, by name."""
    for name, value in counts.items():
        check_count(name, value, least)


def check_number(name: str, value: Any) -> None:
    """Raise `NelboError` unless a value is a real number, or an array of one without axes."""
    number = None
    if isinstance(value, Real) or getattr(value, "ndim", None) == 0:
        with suppress(*_NO_NUMBER):
            number = float(value)
    too_large = isinstance(value, int) and abs(value) > _LARGEST
    if number is None or too_large or isinstance(value, bool):
        raise NelboError(f"{name} must be a number, got {described(value)}")


def check_numbers(**numbers: Any) -> None:
    """`check_number` of each, by name."""
    for name, value in numbers.items():
        check_number(name, value)


def check_choice(what: str, value: Any, known: Iterable[str]) -> None:
    """Raise `NelboError` for a value that is none of the known names."""
    names = tuple(known)
    if not isinstance(value, str) or value not in names:
        raise NelboError(unknown(what, value, names))


def check_path(name: str, value: Any) -> None:
    """Raise `NelboError` unless a value is a path, or the text of one."""
    if not isinstance(value, str | os.PathLike):
        raise NelboError(f"{name} is {described(value)}, expected a path or a name")


def check_kind(name: str, value: Any, kind: Any, expected: str) -> None:
    """Raise `NelboError` unless a value is of a type, or of one of several."""
    if not isinstance(value, kind):
        raise NelboError(f"{name} is {described(value)}, expected {expected}")
