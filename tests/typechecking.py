"""The runtime type checker that the suite runs the package under."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException

# Of each function in each test: a check takes as long as a small layer, and the calls of a loop
# have the same shapes.
MOST_CHECKS = 20
checks: Counter[Any] = Counter()

# An int passes for a float, as in static checks.
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))
_jaxtyped = jaxtyping.jaxtyped


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype`, but for hints that it does not know."""
    try:
        return _beartype(function)
    except BeartypeDecorHintException:  # such as Self outside of its class
        return function


def jaxtyped(*, typechecker: Callable[..., Any]) -> Callable[..., Any]:
    """`jaxtyping.jaxtyped` for functions of tensors; the rest is mypy's, or checks its own."""

    def decorate(decorated: Any) -> Any:
        hints = getattr(decorated, "__annotations__", {})
        if not any("Tensor" in str(hint) for hint in hints.values()):
            return decorated
        if not isinstance(decorated, type):
            return _at_first(decorated, _jaxtyped(decorated, typechecker=typechecker))
        plain = decorated.__init__
        _jaxtyped(decorated, typechecker=typechecker)
        if decorated.__init__ is not plain:
            decorated.__init__ = _at_first(plain, decorated.__init__)
        return decorated

    return decorate


def _at_first(plain: Callable[..., Any], checked: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def function(*args: Any, **kwargs: Any) -> Any:
        if checks[plain] >= MOST_CHECKS:
            return plain(*args, **kwargs)
        checks[plain] += 1
        return checked(*args, **kwargs)

    return function


# What the import hook decorates with.
jaxtyping.jaxtyped = jaxtyped
