"""The runtime type checker that the suite runs the package under."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException

# An int passes for a float, as in static checks.
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype` for functions of tensors; the rest is mypy's, or checks its own arguments."""
    if not any("Tensor" in str(hint) for hint in function.__annotations__.values()):
        return function
    try:
        return _beartype(function)
    except BeartypeDecorHintException:  # such as Self outside of its class
        return function
