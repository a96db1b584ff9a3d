"""nelbo.json, the notes on a model: what a run records of itself is checked as it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nelbo.base.errors import NelboError
from nelbo.base.files import read_json
from nelbo.data.credits import ORIGIN
from nelbo.data.sources import is_path
from nelbo.networks.config import is_number, is_positive_int


class _Kind(NamedTuple):
    """Whether a value is of a kind, and what that is called."""

    fits: Callable[[Any], bool]
    expected: str


_MAPPING = _Kind(lambda value: isinstance(value, Mapping), "a mapping")
_TEXT = _Kind(lambda value: isinstance(value, str), "a string")
_NUMBER = _Kind(is_number, "a number")
_COUNT = _Kind(lambda value: value == 0 or is_positive_int(value), "a whole number")
_LIST = _Kind(lambda value: isinstance(value, list), "a list")
_TEXTS = _Kind(
    lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    "a list of strings",
)
# By the path to each; null is as good as none. What a model is made of is checked where it is used.
_RECORDED = {
    "settings": _MAPPING,
    "settings.training": _MAPPING,
    "settings.training.batch_size": _COUNT,
    "settings.training.objective": _TEXT,
    "settings.model": _MAPPING,
    "settings.model.guidance": _NUMBER,
    "source": _TEXT,
    "training_images": _COUNT,
    "training_pixels": _TEXT,
    "splits": _MAPPING,
    "label_names": _LIST,
    "control": _TEXT,
    "trained": _MAPPING,
    "trained.steps": _COUNT,
    "trained.seconds": _NUMBER,
    "trained.threads": _COUNT,
    "trained.precision": _TEXT,
    ORIGIN: _MAPPING,
    f"{ORIGIN}.model": _TEXT,
    f"{ORIGIN}.sources": _TEXTS,
    f"{ORIGIN}.licence": _TEXT,
}
# What goes with a model that is exported.
_EXPORTED = (
    *("source", "training_images", "training_pixels", "splits", "trained", "label_names"),
    ORIGIN,
)
# What is there wherever the mapping is that it is of.
_NEEDED = ("trained.steps", f"{ORIGIN}.model", f"{ORIGIN}.sources")


def read_notes(file: Path) -> dict[str, Any]:
    """The content of nelbo.json.

    Raises:
        NelboError: it is damaged, or what it records of a run is of another kind.
    """
    notes = read_json(file)
    for path, kind in _RECORDED.items():
        *above, name = path.split(".")
        group = notes
        for each in above:
            group = group.get(each) or {}
        value = group.get(name)
        if value is None and not (group and path in _NEEDED):
            if above or kind is _MAPPING:
                group.pop(name, None)  # its readers have a default for what is not there
            continue
        if not kind.fits(value):
            raise NelboError(f"{file}: {path} is {value!r}, expected {kind.expected}")
    return notes


def shareable(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Notes without the place of a folder on this machine, which is nobody else's business."""

    def named(source: str) -> str:
        return Path(source).name if is_path(source) else source

    found = dict(notes)
    if isinstance(notes.get("source"), str):
        found["source"] = named(notes["source"])
    if origin := notes.get(ORIGIN):
        sources = [named(source) for source in origin["sources"]]
        found[ORIGIN] = origin | {"model": Path(origin["model"]).name, "sources": sources}
    return found


def exported(notes: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's notes goes with its model: its data, its length, its usual guidance."""
    kept = {name: notes[name] for name in _EXPORTED if name in notes}
    guidance = notes.get("settings", {}).get("model", {}).get("guidance")
    return kept if guidance is None else kept | {"settings": {"model": {"guidance": guidance}}}
