"""What commands that read a model on images of a split are asked for: the model and the images."""

from __future__ import annotations

import torch

from nelbo.chain.model import Model
from nelbo.commands.groups import SplitOptions
from nelbo.data import ImageData
from nelbo.formats import Pipeline
from nelbo.runs.run_data import check_data, load_with_data


def load_asked(
    options: SplitOptions, device: torch.device, *, quiet: bool = False, scaled: bool = True
) -> tuple[Model, ImageData]:
    """The model and the images that a command is asked for; see `check_data`, `load_with_data`.

    Args:
        options: the command's.
        device: where the model is to be.
        quiet: name no pictures that were skipped.
        scaled: as `load_with_data`.
    """
    pipeline = Pipeline.open(options.run_path)
    source = check_data(
        pipeline, options.data, options.split, keep_duplicates=options.keep_duplicates
    )
    return load_with_data(
        pipeline,
        source,
        device,
        resize=options.resize,
        images=options.images,
        seed=options.computing.seed,
        quiet=quiet,
        scaled=scaled,
        control=getattr(options, "control", None),
        embedded_guidance=options.embedded_guidance,
    )
