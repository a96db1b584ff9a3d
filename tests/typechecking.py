"""The runtime type checker that the suite runs the package under."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException

# Of each function in each test: a check takes as long as a small layer, and later calls have the
# shapes of the first.
MOST_CHECKS = 3
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
    """`jaxtyping.jaxtyped` for what states shapes; the rest is mypy's, or checks its own."""

    def decorate(decorated: Any) -> Any:
        hints = getattr(decorated, "__annotations__", {})
        if not any("[Tensor" in str(hint) for hint in hints.values()):
            return decorated
        if not isinstance(decorated, type):
            return _at_first(decorated, typechecker)
        if dataclasses.is_dataclass(decorated):
            decorated.__init__ = _at_first(decorated.__init__, typechecker)
        return decorated

    return decorate


def _at_first(plain: Callable[..., Any], typechecker: Callable[..., Any]) -> Callable[..., Any]:
    """Checked at its first calls; the check is made at the very first, since few are called."""
    checked: Callable[..., Any] | None = None

    @functools.wraps(plain)
    def function(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if checks[plain] >= MOST_CHECKS:
            return plain(*args, **kwargs)
        checks[plain] += 1
        if checked is None:
            checked = _jaxtyped(plain, typechecker=typechecker)
        return checked(*args, **kwargs)

    return function


# What the import hook decorates with.
jaxtyping.jaxtyped = jaxtyped


def install() -> None:
    """Have the modules of the package that state shapes checked, whenever they are imported."""
    found = importlib.util.find_spec("nelbo")
    assert found is not None
    assert found.origin is not None
    root = Path(found.origin).parent
    stated = [path for path in sorted(root.rglob("*.py")) if "jaxtyping" in path.read_text()]
    names = [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in stated]
    jaxtyping.install_import_hook(names, f"{__name__}.check")
