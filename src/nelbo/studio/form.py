"""The settings of a request, read field by field with a clear error for each."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unicodedata import category

from nelbo.base.arguments import check_choice, shown
from nelbo.base.errors import NelboError, explained
from nelbo.studio.limits import Limits
from nelbo.studio.uploads import Upload

_LARGEST_SEED = 2**53 - 1  # what a page counts exactly


@dataclass(frozen=True)
class Form:
    """What a request asks for.

    Attributes:
        settings: by name, as the page sent them.
        pictures: the uploads, by the name of their field.
        limits: what may be asked for.
    """

    settings: Mapping[str, Any]
    pictures: Mapping[str, Sequence[Upload]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def parse(cls, settings: str, pictures: Mapping[str, Sequence[Upload]], limits: Limits) -> Form:
        """A form of JSON settings.

        Raises:
            NelboError: they are no JSON object.
        """
        with explained("the settings are no JSON", ValueError, RecursionError):
            content = json.loads(settings)
        if not isinstance(content, dict):
            raise NelboError(f"the settings must be a JSON object, got {type(content).__name__}")
        return cls(content, pictures, limits)

    @property
    def size(self) -> int:
        """Bytes of its pictures."""
        return sum(len(each.content) for some in self.pictures.values() for each in some)

    def count_if_any(self, name: str, low: int, high: int) -> int | None:
        """A whole number in low..high."""
        value = self.settings.get(name)
        if value is None:
            return None
        if not _is_number(value) or (isinstance(value, float) and not value.is_integer()):
            raise NelboError(f"{name} must be a whole number, got {shown(value)}")
        if not low <= value <= high:
            raise NelboError(f"{name} must lie in {low}..{high:,}, got {shown(value)}")
        return int(value)

    def count(self, name: str, default: int, low: int, high: int) -> int:
        """As `count_if_any`, with a default."""
        value = self.count_if_any(name, low, high)
        return default if value is None else value

    def number_if_any(self, name: str, low: float, high: float) -> float | None:
        """A number in low..high."""
        value = self.settings.get(name)
        if value is None:
            return None
        if not _is_number(value):
            raise NelboError(f"{name} must be a number, got {shown(value)}")
        if not low <= value <= high:
            raise NelboError(f"{name} must lie in {low:g}..{high:g}, got {shown(value)}")
        return float(value)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """As `number_if_any`, with a default."""
        value = self.number_if_any(name, low, high)
        return default if value is None else value

    def text(self, name: str) -> str | None:
        """A text without blanks around it; None for an empty one."""
        value = self.settings.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise NelboError(f"{name} must be a text, got {shown(value)}")
        if len(value) > self.limits.text:
            raise NelboError(
                f"{name} has {len(value):,} characters, at most {self.limits.text:,} are read"
            )
        # Neither can be written, nor shown as what it is in a command line to copy.
        if any(category(letter) in ("Cs", "Cc") and letter not in "\n\r\t" for letter in value):
            raise NelboError(f"{name} has control characters, or halves of letters (surrogates)")
        return value.strip() or None

    def texts(self, name: str, most: int) -> list[str]:
        """Several texts; empty ones are left out."""
        values = self.settings.get(name) or []
        if not isinstance(values, list):
            raise NelboError(f"{name} must be a list of texts, got {shown(values)}")
        found = [Form({name: value}, limits=self.limits).text(name) for value in values]
        texts = list(dict.fromkeys(text for text in found if text))
        if len(texts) > most:
            raise NelboError(f"{name} are {len(texts)}, at most {most} are compared")
        return texts

    def choice(self, name: str, known: Collection[str]) -> str | None:
        """One of several names; None where none is given."""
        value = self.text(name)
        if value is not None:
            check_choice(name, value, known)
        return value

    def seed(self) -> int:
        """The source of all noise; 0 where none is given."""
        return self.count("seed", 0, 0, _LARGEST_SEED)

    def picture(self, name: str, what: str) -> Upload:
        """The one picture of a field.

        Raises:
            NelboError: there is none, or more than one.
        """
        some = self.pictures.get(name, ())
        if not some:
            raise NelboError(f"{what} is missing: choose, drop or paste a picture")
        if len(some) > 1:
            raise NelboError(f"one picture is taken as {what}, got {len(some)}")
        return some[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
