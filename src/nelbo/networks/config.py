"""Common to the configs of all networks: reading them, and reporting mistakes in them."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from nelbo.base.errors import NelboError

_LARGEST = sys.float_info.max
# What the `EMAModel` of diffusers records of its average in the config of the network it saves.
_OF_AVERAGE = frozenset(
    {"decay", "min_decay", "optimization_step", "update_after_step"}
    | {"use_ema_warmup", "inv_gamma", "power"}
)


@dataclass(frozen=True)
class NetworkConfig:
    """The fields of one diffusers class, by the same names and with the same defaults.

    Subclasses check themselves in `__post_init__`; a mistake is a `NelboError` that names the
    field.

    Attributes:
        class_name: the class.
        other_names: what early checkpoints call it.
    """

    class_name: ClassVar[str]
    other_names: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Read a config.json; a field nelbo does not know must be unset."""
        if not isinstance(found, Mapping):
            raise NelboError(
                f"a {cls.class_name} config must be a JSON object, found {type(found).__name__}"
            )
        class_name = found.get("_class_name", cls.class_name)
        if class_name not in (cls.class_name, *cls.other_names):
            raise unsupported("_class_name", class_name, repr(cls.class_name))
        names = {field.name for field in fields(cls)}
        given = {name: value for name, value in found.items() if not name.startswith("_")}
        for name, value in given.items():
            if name not in names | _OF_AVERAGE and value not in (None, False):
                raise unsupported(name, value, f"the fields of {cls.class_name}")
        return cls(**{name: value for name, value in given.items() if name in names})

    def to_dict(self) -> dict[str, Any]:
        """The contents of a config.json, but for the version of the format."""
        return {"_class_name": self.class_name} | asdict(self)

    def _to_tuples(self, *names: str) -> None:
        for name in names:
            object.__setattr__(self, name, to_tuple(getattr(self, name)))

    def _require_list(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise unsupported(name, value, "a list with one entry for each resolution")
        object.__setattr__(self, name, tuple(value))

    def _require_positive(self, *names: str, optional: bool = False) -> None:
        for name in names:
            value = getattr(self, name)
            if not (value is None and optional) and not is_positive_int(value):
                raise unsupported(name, value, "a positive integer")

    def _require_positives(self, name: str, count: int | None = None) -> None:
        value = getattr(self, name)
        if not all(map(is_positive_int, value)):
            raise unsupported(name, value, "positive integers")
        if count is not None and len(value) != count:
            raise unsupported(name, value, f"{count} entries, one for each block_out_channels")

    def _require_per_level(self, name: str, count: int) -> None:
        """One positive integer for all resolutions, or one for each."""
        if isinstance(getattr(self, name), tuple):
            self._require_positives(name, count)
        else:
            self._require_positive(name)

    def _require_number(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not is_number(value) or not math.isfinite(value):
                raise unsupported(name, value, "a number")

    def _require_choice(self, choices: Mapping[str, Sequence[object]]) -> None:
        for name, supported in choices.items():
            value = getattr(self, name)
            # By type as well, since 1 == True.
            if not any(value == c and isinstance(value, type(c)) for c in supported):
                raise unsupported(name, value, ", ".join(map(repr, supported)))

    def _require_block_types(self, name: str, known: Mapping[str, object], count: int) -> None:
        for kind in getattr(self, name):
            # Compared, not looked up: JSON may hold what cannot be hashed.
            if kind not in tuple(known):
                raise unsupported(name, kind, ", ".join(known))
        value = getattr(self, name)
        if len(value) != count:
            raise unsupported(name, value, f"{count} entries, one for each block_out_channels")

    def _require_size(self, name: str) -> None:
        """Nothing, a side, or a pair of sides."""
        value = getattr(self, name)
        sides = value if isinstance(value, tuple) else (value,)
        if value is not None and not (1 <= len(sides) <= 2 and all(map(is_positive_int, sides))):
            raise unsupported(name, value, "a positive integer or a pair")


def per_level(value: Any, levels: int) -> tuple[Any, ...]:
    """A value for each resolution, from one for each or one for all."""
    return value if isinstance(value, tuple) else (value,) * levels


def to_tuple(value: Any) -> Any:
    """Lists, as JSON gives them, become tuples."""
    return tuple(map(to_tuple, value)) if isinstance(value, list | tuple) else value


def is_number(value: object) -> bool:
    """An integer or a float, but no truth value, and no integer beyond all floats."""
    if isinstance(value, float):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


def is_positive_int(value: object) -> bool:
    """An integer above zero, of 32 bits, but no truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def unsupported(field: str, found: object, supported: str) -> NelboError:
    """The error for an unsupported value of a field."""
    return NelboError(f"config field {field!r}: found {found!r}, supported: {supported}")
