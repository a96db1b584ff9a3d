"""The data space of a pipeline, from nelbo.json; diffusers has no field for it."""

from __future__ import annotations

import warnings
from typing import Any

from nelbo.base.errors import NelboError
from nelbo.chain.data_space import DataSpace
from nelbo.diffusion import Continuous, Pixels
from nelbo.formats.model_directory import NELBO_FILE
from nelbo.formats.pipeline import Pipeline
from nelbo.networks.config import is_positive_int

ASSUMED_LEVELS = 256


def data_config(data: DataSpace) -> dict[str, Any]:
    """The field `data` of nelbo.json."""
    if data.is_density:
        return {"kind": "continuous"}
    return {"kind": "pixels", "levels": data.shown_levels}


def read_data_space(pipeline: Pipeline) -> DataSpace:
    """The data space of a pipeline; 256 pixel levels, with a note, without nelbo.json."""
    if pipeline.own is None:
        warnings.warn(
            f"{pipeline.path} does not state the number of its pixel levels: assuming "
            f"{ASSUMED_LEVELS}",
            stacklevel=5,
        )
        return Pixels(ASSUMED_LEVELS)
    try:
        return parse_data_space(pipeline.own.get("data"), "data")
    except NelboError as error:
        raise NelboError(f"{pipeline.path}/{error}") from error


def parse_data_space(value: Any, field: str) -> DataSpace:
    """Parse a data space in a field of nelbo.json.

    Raises:
        NelboError: it is neither pixels with a number of pixel levels nor continuous.
    """
    if isinstance(value, dict) and value.get("kind") == "continuous":
        return Continuous()
    if (
        isinstance(value, dict)
        and value.get("kind") == "pixels"
        and is_positive_int(value.get("levels"))
    ):
        return Pixels(value["levels"])
    raise NelboError(
        f'{NELBO_FILE}: {field} is {value!r}, expected {{"kind": "pixels", "levels": L}} or '
        '{"kind": "continuous"}'
    )


def read_shape(pipeline: Pipeline, usual: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of the input of the network; the usual ones where no note is."""
    shape = pipeline.notes.get("shape") or usual
    if not (isinstance(shape, list | tuple) and list(map(is_positive_int, shape)) == [True] * 3):
        raise NelboError(
            f"{pipeline.path}/{NELBO_FILE}: shape is {shape!r}, expected [channels, height, width]"
        )
    channels, height, width = shape
    return channels, height, width
