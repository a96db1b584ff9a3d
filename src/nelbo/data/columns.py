"""The columns of a table of pictures, recognised by name and type, and what their values mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.data.labels import Label, as_label, is_blank
from nelbo.data.table import Table

_IMAGE_COLUMNS = ("image", "img", "picture", "photo", "png", "jpg", "jpeg", "webp")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
_SEVERAL_CAPTIONS = "several captions: the first is taken"
_NO_CLASS = "a label that is neither a string nor a whole number: no class"
_CAPTION_COLUMNS = ("text", "caption", "captions", "txt", "prompt")


def columns_of(table: Table, rows: Any) -> dict[str, str]:
    """The columns for image, label and caption: by option, or else by type and name."""
    features = rows.features or {}
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    found = {
        "image": [name for name in kinds if kinds[name] == "Image"]
        + [name for name in _IMAGE_COLUMNS if name in kinds],
        "label": [name for name in _LABEL_COLUMNS if name in kinds]
        + [name for name in kinds if kinds[name] == "ClassLabel"],
        "caption": [name for name in _CAPTION_COLUMNS if _is_text(features.get(name))],
    }
    columns = {kind: names[0] for kind, names in found.items() if names}
    for kind in found:
        wanted = table.options.get(kind)
        if wanted is not None and wanted not in kinds:
            raise NelboError(f"{table.source} has no column {wanted!r}; it has {', '.join(kinds)}")
        if wanted is not None:
            columns[kind] = wanted
    if "image" not in columns:
        raise NelboError(
            f"{table.source} has no column of pictures among {', '.join(kinds)}; name it with "
            "?image=COLUMN"
        )
    return columns


def _is_text(feature: Any) -> bool:
    """Whether a column holds texts, or lists of them."""
    of_list = feature[0] if isinstance(feature, list) and feature else feature
    element = getattr(of_list, "feature", of_list)
    return getattr(element, "dtype", None) in ("string", "large_string")


def caption_of(value: Any) -> tuple[str | None, tuple[str, ...]]:
    """A text, or the first of several with a note."""
    several = value if isinstance(value, list) else [value]
    texts = [text for text in several if isinstance(text, str) and not is_blank(text)]
    notes = (_SEVERAL_CAPTIONS,) if len(texts) > 1 else ()
    return (texts[0] if texts else None), notes


def label_of(value: Any) -> tuple[Label | None, tuple[str, ...]]:
    """A class; for a value of another type None, with a note."""
    label = as_label(value)
    nothing = value is None or is_blank(value) or (isinstance(value, float) and math.isnan(value))
    return label, () if nothing or label is not None else (_NO_CLASS,)


def class_names_of(rows: Any, columns: Mapping[str, str]) -> list[str] | None:
    """The names of the classes of the label column, where its type has any."""
    names = getattr((rows.features or {}).get(columns.get("label")), "names", None)
    return None if names is None else list(names)
