"""The fields of a config file, read on demand and checked as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nelbo.base.errors import NelboError
from nelbo.networks.config import is_number

Value = TypeVar("Value")


@dataclass(frozen=True)
class ConfigFields:
    """The content of a config file.

    Each reader raises `NelboError` for a value of another kind, naming file, field and value.

    Args:
        file: where it was read, for messages.
        fields: its content.
    """

    file: Path
    fields: Mapping[str, Any]

    def choice(self, field: str, allowed: Mapping[str, Any]) -> Any:
        """What a name stands for."""
        value: Any = self.fields.get(field)
        if not isinstance(value, str) or value not in allowed:
            raise self.wrong(field, f"one of {', '.join(allowed)}")
        return allowed[value]

    def boolean(self, field: str) -> bool:
        """True or false."""
        value: Any = self.fields.get(field)
        if not isinstance(value, bool):
            raise self.wrong(field, "true or false")
        return value

    def integer(self, field: str, least: int) -> int:
        """An integer of at least `least`."""
        value: Any = self.fields.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
            raise self.wrong(field, f"an integer of at least {least}")
        return value

    def number(self, field: str) -> float:
        """A finite number."""
        value: Any = self.fields.get(field)
        if not is_number(value) or not math.isfinite(value):
            raise self.wrong(field, "a number")
        return float(value)

    def positive(self, field: str) -> float:
        """A finite number above 0."""
        value: Any = self.fields.get(field)
        if not is_number(value) or not 0 < value < math.inf:
            raise self.wrong(field, "a positive number")
        return float(value)

    def numbers(self, field: str, count: int) -> list[float]:
        """A list of this number of finite numbers."""
        value: Any = self.fields.get(field)
        given = isinstance(value, list | tuple) and len(value) == count
        if not given or not all(is_number(each) and math.isfinite(each) for each in value):
            raise self.wrong(field, f"a list of {count} numbers")
        return [float(each) for each in value]

    def if_any(self, read: Callable[..., Value], field: str, *expected: Any) -> Value | None:
        """What one of the readers finds; None where the field is missing or null."""
        return None if self.fields.get(field) is None else read(field, *expected)

    def wrong(self, field: str, expected: str) -> NelboError:
        """The error for a field that is not as expected."""
        return NelboError(
            f"{self.file}: {field} is {self.fields.get(field)!r}, expected {expected}"
        )
