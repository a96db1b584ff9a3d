"""Renaming weights by rules, and numbers that their names count."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

Weights = Mapping[str, Tensor]
Rules = Sequence[tuple[str, str]]


def part(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """The weights below a prefix, without it."""
    return {name[len(prefix) :]: w for name, w in weights.items() if name.startswith(prefix)}


def renamed(name: str, rules: Rules) -> str:
    """A name by the first rule whose beginning it has; itself where none has."""
    for old, new in rules:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def counted(names: Iterable[str], pattern: str) -> int:
    """One more than the largest number that a pattern finds at the start of names; 0 for none."""
    found = (re.match(pattern, name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)
