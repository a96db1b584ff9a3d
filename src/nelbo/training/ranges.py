"""Settings that make no sense, named as the command line calls them."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from nelbo.base.errors import NelboError

# Beyond which torch does not start.
_MOST_THREADS = 1024


def option(name: str) -> str:
    """What the command line calls a field of that name."""
    return f"--{name.replace('_', '-')}"


def at_least_one(**counts: int | None) -> None:
    """Raise `NelboError` for an option, named as its field, that is below 1; None is no number."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise NelboError(f"{option(name)} must be at least 1, got {value}")


def refuse(options: Any, *names: str, why: str) -> None:
    """Raise `NelboError` for the first of some options that does not have its default."""
    defaults = {each.name: each.default for each in dataclasses.fields(options)}
    for name in names:
        if getattr(options, name) != defaults[name]:
            raise NelboError(f"{option(f'no_{name}' if defaults[name] is True else name)} {why}")


def check_threads(threads: int | None) -> None:
    """Raise `NelboError` for a number of threads that there cannot be; None is no number."""
    at_least_one(threads=threads)
    if threads is not None and threads > _MOST_THREADS:
        raise NelboError(f"--threads must be at most {_MOST_THREADS:,}, got {threads}")


def check_numbers(
    settings: Any,
    *,
    at_least_one: Iterable[str] = (),
    at_most: Mapping[str, int] = MappingProxyType({}),
    positive: Iterable[str] = (),
    not_negative: Iterable[str] = (),
    share: Iterable[str] = (),
    below_one: Iterable[str] = (),
) -> None:
    """Raise `NelboError` for a number that is not finite, or out of the range of its field.

    Args:
        settings: a dataclass; None is no number, and of several each is looked at.
        at_least_one: fields of 1 or more.
        at_most: the most that fields may be.
        positive: fields above 0.
        not_negative: fields of 0 or more.
        share: fields in [0, 1].
        below_one: fields in [0, 1).
    """
    for field in dataclasses.fields(settings):
        for value in _numbers(getattr(settings, field.name)):
            if not math.isfinite(value):
                raise NelboError(f"{option(field.name)} must be a finite number, got {value}")
    ranges: list[tuple[Iterable[str], Callable[[float], bool], str]] = [
        (at_least_one, lambda value: value >= 1, "be at least 1"),
        (positive, lambda value: value > 0, "be positive"),
        (not_negative, lambda value: value >= 0, "not be negative"),
        (share, lambda value: 0 <= value <= 1, "lie in [0, 1]"),
        (below_one, lambda value: 0 <= value < 1, "lie in [0, 1)"),
    ]
    ranges += [
        ((name,), partial(operator.ge, most), f"be at most {most:,}")
        for name, most in at_most.items()
    ]
    for names, fits, what in ranges:
        for name in names:
            for value in _numbers(getattr(settings, name)):
                if not fits(value):
                    raise NelboError(f"{option(name)} must {what}, got {value}")


def _numbers(value: Any) -> list[float]:
    values = value if isinstance(value, tuple) else (value,)
    return [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
