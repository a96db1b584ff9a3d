"""Settings as YAML: a dataclass written with every field, and read back strictly."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from nelbo.base.errors import NelboError
from nelbo.base.files import new_file, read_mapping
from nelbo.base.suggestions import did_you_mean

Settings = TypeVar("Settings")


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write settings, the dataclasses among them as mappings; whole or not at all.

    Raises:
        NelboError: they cannot be written.
    """
    content = {name: plain(value) for name, value in settings.items()}
    with new_file(path) as temporary:
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a file of YAML; errors as `read_mapping`."""
    return read_mapping(path, "YAML", yaml.safe_load, yaml.YAMLError)


def from_mapping(
    kind: type[Settings], content: Mapping[str, Any], where: str, hidden: Iterable[str] = ()
) -> Settings:
    """A dataclass from a mapping; fields that are left out keep their defaults.

    Args:
        kind: the dataclass.
        content: the mapping.
        where: it comes from, for messages.
        hidden: fields that are not for files, and are not suggested.

    Raises:
        NelboError: a field that there is not, or a value of the wrong type.
    """
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(str(name) for name in content if name not in fields)
    if unknown:
        raise NelboError(f"{where}: {_unknown(unknown[0], kind, fields - set(hidden))}")
    hints = get_type_hints(kind)
    return kind(**{k: _convert(hints[k], v, f"{where}: {k}") for k, v in content.items()})


def _unknown(name: str, kind: type, fields: Iterable[str]) -> str:
    """The message for an unknown field: its group, or similar names."""
    hints = get_type_hints(kind)
    groups = [f for f in fields if dataclasses.is_dataclass(hints[f])]
    for group in groups:
        if name in {field.name for field in dataclasses.fields(hints[group])}:
            return f"{name} is a field of {group}: indent it below {group}:"
    unknown = f"unknown field {name!r}{did_you_mean(name, fields)}"
    return f"{unknown}; expected {', '.join(sorted(fields))}"


def plain(value: Any) -> Any:
    """A value as YAML has it: dataclasses as mappings, tuples as lists, paths as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Convert a value to a type."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        for option in get_args(hint):
            try:
                return _convert(option, value, where)
            except NelboError:
                continue
    elif origin is Literal:
        if value in get_args(hint):
            return value
    elif origin is tuple and isinstance(value, list):
        return tuple(_convert(get_args(hint)[0], item, where) for item in value)
    elif dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    elif hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:  # YAML reads 2e-3 as a string
            return float(value)
        except ValueError:
            pass
    elif hint is types.NoneType or isinstance(hint, type):
        if type(value) is hint:
            return value
        if hint is Path and isinstance(value, str):
            return Path(value)
    name = getattr(hint, "__name__", None) if isinstance(hint, type) else None
    raise NelboError(f"{where} is {value!r}, expected {name or str(hint).replace('typing.', '')}")
