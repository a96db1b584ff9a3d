"""The data space of a pipeline, from nelbo.json; diffusers has no field for it."""

from __future__ import annotations

import warnings
from typing import Any

from nelbo.chain.data_space import DataSpace
from nelbo.diffusion import Continuous, Pixels
from nelbo.formats.config_fields import ConfigFields
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
    return parse_data_space(pipeline.own_fields, "data")


def parse_data_space(own: ConfigFields, field: str) -> DataSpace:
    """The data space in a field of nelbo.json.

    Raises:
        NelboError: it is neither pixels with a number of pixel levels nor continuous.
    """
    value = own.fields.get(field)
    if isinstance(value, dict) and value.get("kind") == "continuous":
        return Continuous()
    if (
        isinstance(value, dict)
        and value.get("kind") == "pixels"
        and is_positive_int(value.get("levels"))
    ):
        return Pixels(value["levels"])
    raise own.wrong(field, '{"kind": "pixels", "levels": L} or {"kind": "continuous"}')


def pixel_options(own: ConfigFields) -> dict[str, Any]:
    """The options of a `LatentDiffusion` that nelbo.json has of pixels; errors as its readers."""
    data = parse_data_space(own, "pixels") if "pixels" in own.fields else Pixels()
    return {"data": data, "decoder_scale": own.if_any(own.number, "decoder_scale")}


def read_shape(pipeline: Pipeline, usual: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of the input of the network; the usual ones where no note is."""
    shape = pipeline.notes.get("shape") or usual
    if not (isinstance(shape, list | tuple) and list(map(is_positive_int, shape)) == [True] * 3):
        raise pipeline.own_fields.wrong("shape", "[channels, height, width]")
    channels, height, width = shape
    return channels, height, width
