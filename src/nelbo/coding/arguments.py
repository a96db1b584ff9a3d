"""Arguments of another type than expected, refused by name before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from typing import Any

from torch import Tensor

from nelbo.base.arguments import check_kind, described
from nelbo.base.errors import NelboError
from nelbo.chain.model import check_model as check_any_model
from nelbo.data import ImageData


def check_model(model: Any) -> None:
    """Raise `NelboError` unless this is a model that knows the shape of a picture."""
    check_any_model(model)
    if model.shape is None:
        raise NelboError("coding needs a model that knows its shape: pass shape=(C, H, W) to it")


def check_images(images: Any) -> None:
    """Raise `NelboError` unless these may be several pictures."""
    several = "a tensor (N, C, H, W), a list of tensors (C, H, W), or an ImageData"
    check_kind("images", images, (Tensor, list, tuple, ImageData), several)
    if isinstance(images, Tensor) and images.ndim != 4:
        raise NelboError(
            f"images have shape {tuple(images.shape)}, expected (N, C, H, W); of one picture, "
            "images[None]"
        )


def check_strings(what: str, values: Any, *, may_lack: bool = False) -> None:
    """Raise `NelboError` unless these are a string for each picture.

    Args:
        what: what they are called.
        values: the strings; None where there are none at all.
        may_lack: whether a picture may have None.
    """
    if values is None:
        return
    each = f"a sequence of strings{' or None' if may_lack else ''}, one for each picture"
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise NelboError(f"{what} is {described(values)}, expected {each}")
    for value in values:
        if not isinstance(value, str) and not (may_lack and value is None):
            raise NelboError(f"{what} holds {described(value)}, expected {each}")


def check_notes(notes: Any, taken: Container[str]) -> None:
    """Raise `NelboError` unless these are fields that a header may have beside its own.

    Args:
        notes: the fields; None where there are none.
        taken: the names of its own.
    """
    if notes is None:
        return
    check_kind("notes", notes, Mapping, "a dict of fields for the header")
    for name in notes:
        if not isinstance(name, str) or name in taken:
            raise NelboError(
                f"notes has the field {name!r}, expected names that are strings and none of the "
                "header's own: give it another name"
            )
    try:
        json.dumps(dict(notes), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise NelboError(f"notes cannot be written as JSON: {error}") from error


def as_bytes(data: Any) -> bytes:
    """The bytes of a file.

    Raises:
        NelboError: anything but bytes.
    """
    kinds = (bytes, bytearray, memoryview)
    check_kind("data", data, kinds, "the bytes of a file: Path(...).read_bytes()")
    return bytes(data)
