"""The images to read a model on: those that are named, or what its run was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from nelbo.errors import NelboError

if TYPE_CHECKING:
    from nelbo.data import ImageData


class ImageModel(Protocol):
    """What is a model of images of one size."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """(C, H, W) of an image."""

    @property
    def data(self) -> Any:
        """What pixels are."""


def check_run(run_path: str, source: str | None, split: str) -> None:
    """Raise `NelboError` for a model or images that are not there, before either is read."""
    from nelbo.diffusers_format.pipelines import read_pipeline

    read_pipeline(run_path)
    check_data(run_path, source, split)


def check_data(run_path: str, source: str | None, split: str) -> str:
    """The images to evaluate a model on: `source`, or what the run was trained on.

    Raises:
        NelboError: there are none, or no such split.
    """
    from nelbo.data.sources import check_source, is_local, is_path
    from nelbo.training.run_directory import RunDirectory

    remembered = RunDirectory(run_path).notes().get("source")
    source = source or remembered
    if source is None:
        raise NelboError(f"{run_path} does not say what it was trained on: give --data")
    if source == remembered and is_path(source) and not is_local(source):
        raise NelboError(
            f"{run_path} was trained on {source}, which is not there any more: give --data"
        )
    check_source(source, split)
    return source


def data_for_run(
    run_path: str,
    model: ImageModel,
    source: str | None,
    split: str,
    *,
    resize: bool = False,
    images: int | None = None,
    seed: int = 0,
) -> ImageData:
    """The images to evaluate a model on, in its size: `source`, or what the run was trained on.

    The pictures that a run was trained on are cropped and resized as they were then; others only
    with `resize`.

    Args:
        run_path: where the model came from.
        model: the model.
        source: the images, by default what the run was trained on.
        split: which of them.
        resize: crop and resize images of another size.
        images: at most so many, drawn at random: those of a seed are the same for every model.
        seed: which of them are drawn.

    Raises:
        NelboError: images of another size than the model's without `resize`, or of other channels.
    """
    data = _in_size(run_path, model, source, split, resize=resize)
    return data if images is None else data.subset(images, seed)


def _in_size(
    run_path: str, model: ImageModel, source: str | None, split: str, *, resize: bool
) -> ImageData:
    """All the images, as the model takes them."""
    from nelbo.data import load_data
    from nelbo.data.folder import LEVELS, check_sizes
    from nelbo.data.sources import FIXED_SIZE, OWN_CHANNELS, is_local
    from nelbo.training.run_directory import RunDirectory

    source = check_data(run_path, source, split)
    remembered = RunDirectory(run_path).notes().get("source")
    assert model.shape is not None
    channels, height, width = model.shape
    levels = getattr(model.data, "levels", LEVELS)
    if levels != LEVELS and is_local(source) and source != remembered:
        raise NelboError(
            f"pictures have {LEVELS} levels a pixel, the model of {run_path} has "
            f"{levels}: it gives them no probability"
        )
    if not is_local(source) and OWN_CHANNELS.get(source, channels) != channels:
        own = OWN_CHANNELS[source]
        raise NelboError(
            f"{source} has images of {_named(own)}, the model of {run_path} takes "
            f"{_named(channels)}: give a folder of pictures, which are converted, or train a model "
            f"with --channels {own}"
        )
    if source in FIXED_SIZE and not is_local(source):
        data = load_data(source, split)
        if data.shape[1:] == (height, width):
            return data
        if not resize:
            raise NelboError(
                f"{source} has images of {data.shape[1]}×{data.shape[2]}, the model takes "
                f"{height}×{width}: give --resize to resize them"
            )
        return data.resize(height, width)
    if height != width:
        raise NelboError(f"the model takes images of {height}×{width}; pictures are cut to squares")
    if not resize and source != remembered:
        check_sizes(source, height)
    return load_data(source, split, size=height, channels=channels)


def _named(channels: int) -> str:
    return {1: "1 channel (grey)", 3: "3 channels (RGB)"}.get(channels, f"{channels} channels")
