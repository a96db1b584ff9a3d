"""Classes of images from labels that are numbers, strings, or both."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

Label = str | int


def class_names(labels: Iterable[Label]) -> tuple[str, ...]:
    """The name of each class; 1 and "1" are one class.

    Numeric order if all names are numbers and any is given as a number; otherwise alphabetical.
    """
    given = set(labels)
    names = {name_of(label) for label in given}
    if any(isinstance(label, int) for label in given) and all(map(_is_number, names)):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def name_of(label: Label) -> str:
    """The name of a class, in composed characters."""
    return unicodedata.normalize("NFC", str(label))


def index_labels(labels: Sequence[Label | None], names: Sequence[str]) -> Int[Tensor, " n"]:
    """The class of each image, −1 without one.

    Args:
        labels: labels in the source.
        names: names of the classes; other labels give no class.
    """
    index = {name: i for i, name in enumerate(names)}
    of_each = [-1 if label is None else index.get(name_of(label), -1) for label in labels]
    return torch.tensor(of_each, dtype=torch.int64)


def is_blank(value: object) -> bool:
    """Whether a value is a text of white space alone, which names and describes nothing."""
    return isinstance(value, str) and not value.strip()


def as_label(value: object) -> Label | None:
    """A value as a label: a string, or a whole number of any type; otherwise None."""
    if isinstance(value, bool) or is_blank(value):
        return None
    if (
        isinstance(value, float) and value.is_integer()
    ):  # as pandas writes integers if some are missing
        return int(value)
    return value if isinstance(value, str | int) else None


def _is_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal()
