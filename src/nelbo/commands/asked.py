"""What commands that read a model on images of a split are asked for: the model and the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nelbo.chain.model import Model
from nelbo.commands.groups import ImageOptions, SplitOptions
from nelbo.commands.options.compare import Compare
from nelbo.data import ImageData
from nelbo.formats import Pipeline
from nelbo.runs.run_data import RunSource, check_data, load_with_data
from nelbo.runs.run_directory import RunDirectory


def asked_source(
    options: ImageOptions | Compare,
    run: Pipeline | RunDirectory,
    split: str,
    *,
    keep_duplicates: bool,
) -> RunSource:
    """Where the images of a split come from that a run is to be read on; see `check_data`."""
    return check_data(
        run,
        options.data,
        split,
        keep_duplicates=keep_duplicates,
        resize=options.resize,
        images=options.images,
        seed=options.computing.seed,
    )


def load_asked(
    options: SplitOptions, device: torch.device, *, quiet: bool = False, scaled: bool = True
) -> tuple[Model, ImageData]:
    """The model and the images that a command is asked for; see `load_with_data`.

    Args:
        options: the command's.
        device: where the model is to be.
        quiet: name no pictures that were skipped.
        scaled: as `load_with_data`.
    """
    pipeline, keep = Pipeline.open(options.run_path), options.keep_duplicates
    return load_with_data(
        pipeline,
        asked_source(options, pipeline, options.split, keep_duplicates=keep),
        device,
        quiet=quiet,
        scaled=scaled,
        control=getattr(options, "control", None),
        embedded_guidance=options.embedded_guidance,
    )


def heading(options: SplitOptions, data: ImageData, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the JSON of figures begins with: what they are of, and what they are `given`."""
    return {
        "run": options.run_path,
        "data": data.source,
        "split": options.split,
        **given,
        "duplicates_left_out": data.left_out,
    }
