"""Families of models on disk: config.json, model.safetensors, and the index and notes of any model.

A family registers itself by its class (`nelbo.families.FAMILIES`), whose name the index holds; how
its numbers are saved and loaded is `Family.save_pretrained` and `from_pretrained`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.base.files import write_json
from nelbo.families import FAMILIES, Family
from nelbo.formats.data_space import data_config
from nelbo.formats.files import write_index
from nelbo.formats.model_directory import NELBO_FILE
from nelbo.formats.pipeline import Format, Pipeline
from nelbo.samplers import Sampler
from nelbo.version import __version__


def load_family(pipeline: Pipeline) -> Family:
    """The model of a family that `save_family` wrote."""
    return FAMILIES[pipeline.index.class_name].from_pretrained(pipeline.path)


def save_family(
    model: Family, directory: Path, sampler: Sampler | None, notes: Mapping[str, Any]
) -> None:
    """Write a model of a family; it has no scheduler that could describe a sampler.

    Raises:
        NelboError: a sampler, or a model that is not fitted.
    """
    if sampler is not None:
        raise NelboError(f"a {model.name} has no chain for a sampler to walk: save it without one")
    model.save_pretrained(directory)
    own = {
        "nelbo_version": __version__,
        "data": data_config(model.data),
        "shape": list(model.image_shape),
    }
    write_json(directory / NELBO_FILE, own | dict(notes))
    write_index(directory, model.name, {})


FORMAT = Format("family", Family, FAMILIES, load_family, save_family, has_chain=False)
