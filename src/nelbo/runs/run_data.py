"""The images to read a model on: those that are named, or what its run was trained on."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from nelbo.base.console import notice
from nelbo.base.errors import NelboError
from nelbo.base.suggestions import listed
from nelbo.chain.model import Model
from nelbo.data import ImageData, load_data
from nelbo.data.cache import LEVELS
from nelbo.data.controls import CHANNELS, controls_of
from nelbo.data.duplicates import pixels_digest, without_duplicates
from nelbo.data.mentions import mention
from nelbo.data.sources import (
    FIXED_SIZE,
    OWN_CHANNELS,
    absolute,
    check_not_among,
    check_source,
    is_local,
    is_path,
)
from nelbo.data.splits import TEST, TRAIN, VALIDATION, EmptySplitError
from nelbo.evidence.autoencoder import FITTED, fit_scale
from nelbo.formats import Pipeline
from nelbo.runs.run_directory import RunDirectory, predates_validation


class ImageModel(Protocol):
    """What is a model of images of one size."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """(C, H, W) of an image."""

    @property
    def data(self) -> Any:
        """What pixels are."""


@dataclass(frozen=True)
class RunSource:
    """Where the images come from that a model is read on.

    Attributes:
        run_path: where the model comes from.
        name: of the source, as in `nelbo train`.
        split: which of its images.
        own: whether the run was trained on this source.
        validation: whether the source has a validation split; to a run that was trained before
            there was one, its images are for train.
        keep_duplicates: keep test images that were trained on or chosen by under another name.
        classes: the names of the classes that the run is conditioned on, in their order; or none.
        resize: crop and resize images of another size than the model's.
        images: at most this number, drawn at random: those of a seed are the same for every model.
        seed: which of them are drawn.
        trained_on: `pixels_digest` of the images that the run was trained on, where recorded.
    """

    run_path: str
    name: str
    split: str
    own: bool
    validation: bool = True
    keep_duplicates: bool = False
    classes: tuple[str, ...] = ()
    resize: bool = False
    images: int | None = None
    seed: int = 0
    trained_on: str | None = None


def check_data(
    run: Pipeline | RunDirectory,
    source: str | None,
    split: str,
    *,
    keep_duplicates: bool = False,
    resize: bool = False,
    images: int | None = None,
    seed: int = 0,
) -> RunSource:
    """The source of the images to read a model on: `source`, or what the run was trained on.

    Args:
        run: where the model is, which is not read.
        source: as in `nelbo train`.
        split: which of its images.
        keep_duplicates: as all that follows, see `RunSource`.
        resize: whether images of another size are.
        images: how many of them.
        seed: which.

    Raises:
        NelboError: there is none, or no such split.
    """
    run_path, notes = str(run.path), run.notes
    remembered = notes.get("source")
    source = source or remembered
    if source is None:
        raise NelboError(f"{run_path} does not record its training data: give --data")
    if source == remembered and is_path(source) and not is_local(source):
        if not Path(source).is_absolute():  # as a copy that is to be shared records it
            raise NelboError(
                f"{run_path} was trained on a folder called {source} and does not record where it "
                "is: give --data with its path"
            )
        raise NelboError(
            f"{run_path} was trained on {source}, which is not there any more: give --data"
        )
    check_source(source, split)
    own = remembered is not None and absolute(source) == absolute(remembered)
    validation = not (own and predates_validation(notes))
    if split == VALIDATION and not validation:
        raise NelboError(
            f"{run_path} was trained before there was a validation split, on the images that are "
            "one today: give --split test or train"
        )
    classes = tuple(map(str, notes.get("label_names") or ()))
    return RunSource(
        run_path,
        source,
        split,
        own,
        validation,
        keep_duplicates,
        classes,
        resize,
        images,
        seed,
        notes.get("training_pixels"),
    )


def check_not_data(pipeline: Pipeline, path: Path, option: str = "--out") -> None:
    """Raise `NelboError` for the path of a new picture among those that a run was trained on.

    It would change the data: the run could not be resumed, nor its bound be read again.
    """
    remembered = pipeline.notes.get("source")
    # A run remembers folders by absolute paths, so that a name is that of a data set.
    if remembered is not None and Path(remembered).is_absolute():
        check_not_among(remembered, path, option)


def load_with_data(
    pipeline: Pipeline,
    source: RunSource,
    device: torch.device,
    *,
    quiet: bool = False,
    scaled: bool = True,
    control: str | None = None,
    embedded_guidance: float | None = None,
) -> tuple[Model, ImageData]:
    """The model on a device, and the images in its size; pictures that were skipped are named.

    Args:
        pipeline: where the model is.
        source: of the images.
        device: where the model is to be.
        quiet: name nothing.
        scaled: fit the scale of a decoder, where the likelihood lacks it, to images that are not
            for test.
        control: as `with_controls`.
        embedded_guidance: what a guidance-distilled network receives; None is its usual one.

    Raises:
        NelboError: a model that cannot be loaded, or without embedded guidance if that is given, or
            as `data_for_run`.
    """
    model = pipeline.model().to(device)
    if embedded_guidance is not None:
        model = model.with_embedded_guidance(embedded_guidance)
    data = data_for_run(source, model)
    data = with_controls(pipeline, model, data, control, source.seed)
    if not quiet:
        mention(data)
    if scaled and model.lacks_scale:
        _fit_missing_scale(source, model, data, quiet=quiet)
    return model, data


def _fit_missing_scale(source: RunSource, model: Model, data: ImageData, *, quiet: bool) -> None:
    """Give a latent model without a decoder scale the one that suits some images best.

    Those are for validation, or else to train on; the images themselves in a set without either.
    """
    flatters = True
    fitted = data
    with contextlib.suppress(EmptySplitError):
        fitted = for_fits_of(source, model)
        flatters = source.split != TEST
    latent: Any = model
    latent.decoder_scale = fit_scale(latent, fitted)
    if not quiet:
        which = f"{min(FITTED, len(fitted))} images of {fitted.source}"
        which += ", which flatters the bound a little" if flatters else " that are not for test"
        notice(
            f"{source.run_path} has no scale of its decoder: {latent.decoder_scale:.4f} is fitted "
            f"to {which}"
        )


def with_controls(
    pipeline: Pipeline, model: Model, data: ImageData, asked: str | None, seed: int
) -> ImageData:
    """The images with the controls that a model with a ControlNet reads.

    Args:
        pipeline: where the model is.
        model: the model.
        data: the images.
        asked: what the control shows; "none" for the base alone; None as the run was trained.
        seed: of what is left to chance.

    Raises:
        NelboError: no run's control where none is asked for, one for a model without ControlNet, or
            as `nelbo.data.controls.controls_of`.
    """
    shape = model.control_shape
    if shape is None:
        if asked is not None:
            raise NelboError(f"--control: {pipeline.path} has no ControlNet")
        return data
    asked = asked or pipeline.notes.get("control")
    if asked is None:
        raise NelboError(
            f"{pipeline.path} has a ControlNet and does not record what its control shows: nelbo "
            "evaluate --control names it, and --control none evaluates the base alone"
        )
    if asked == "none":
        return data
    if shape != (CHANNELS, *data.shape[1:]):
        raise NelboError(
            f"the ControlNets of {pipeline.path} read controls of shape {shape}, and one of "
            f"{data.source} has {(CHANNELS, *data.shape[1:])}: give --control none"
        )
    return controls_of(asked, data).of_all(data, seed)


def data_for_run(source: RunSource, model: ImageModel) -> ImageData:
    """The images to read a model on, in its size.

    The pictures that a run was trained on are cropped and resized as they were then; others only
    with `resize`. Classes are those of the model, by their names.

    Raises:
        NelboError: images of another size than the model's without `resize`, or of other channels.
    """
    data = _in_size(source, model)
    if source.split == TEST and source.own:
        seen = _seen(source, model)
        data = without_duplicates(data, *seen.values(), keep=source.keep_duplicates)
        data = _with_note_on_changes(source, data, seen.get(TRAIN))
    data = _in_classes(source, model, data)
    return data if source.images is None else data.subset(source.images, source.seed)


def _in_classes(source: RunSource, model: ImageModel, data: ImageData) -> ImageData:
    """The images with the classes of a class-conditional model, in its order.

    Raises:
        NelboError: more classes than the model has, whose own have no names.
    """
    known = getattr(model, "num_classes", 0)
    if not known or data.labels is None:
        return data
    if len(source.classes) == known:
        return data.with_classes(source.classes)
    numbers = tuple(map(str, range(known)))
    if set(data.label_names) <= set(numbers):
        return data.with_classes(numbers)
    if int(data.labels.max()) >= known:
        raise NelboError(
            f"{source.name} has {data.num_classes} classes, and the model of {source.run_path} "
            f"{known}, whose names it does not record: give images of these classes, or name their "
            f"folders by the numbers of the classes, 0..{known - 1}"
        )
    if data.num_classes == known:
        return data
    note = (
        f"the model of {source.run_path} does not record the names of its {known} classes: "
        f"{listed(data.label_names)} are taken as the first {data.num_classes} of them"
    )
    return replace(data, notes=(*data.notes, note))


def for_fits_of(source: RunSource, model: ImageModel) -> ImageData:
    """What a few numbers of a trained model are fitted to: never the images for test.

    The validation images of the source; in a set that has none, and for a run from before there was
    such a split, those to train on. Errors as `data_for_run`.
    """
    source = replace(source, images=None)
    if source.validation:
        with contextlib.suppress(EmptySplitError):
            return data_for_run(replace(source, split=VALIDATION), model)
    return data_for_run(replace(source, split=TRAIN), model)


def _with_note_on_changes(source: RunSource, data: ImageData, train: ImageData | None) -> ImageData:
    """Test images, with a note where the images to train on are others than they were."""
    if source.trained_on is None or (train is not None and train.stream is not None):
        return data
    if train is not None and pixels_digest(train) == source.trained_on:
        return data
    note = (
        f"the training images of {source.name} are no longer those that {source.run_path} was "
        "trained on: it may have seen some of these test images"
    )
    return replace(data, notes=(*data.notes, note))


def _seen(source: RunSource, model: ImageModel) -> dict[str, ImageData]:
    """What the run was trained on and chosen by, as the model takes it; of streams a part."""
    seen = {}
    for split in (TRAIN, VALIDATION) if source.validation else (TRAIN,):
        # A small set has no validation split, and broken files may leave none to train on.
        with contextlib.suppress(EmptySplitError):
            seen[split] = _in_size(replace(source, split=split, resize=True), model)
    return seen


def _in_size(asked: RunSource, model: ImageModel) -> ImageData:
    """All the images, as the model takes them."""
    source, split, run_path = asked.name, asked.split, asked.run_path
    assert model.shape is not None
    channels, height, width = model.shape
    levels = model.data.shown_levels
    if levels != LEVELS and is_local(source) and not asked.own:
        raise NelboError(
            f"pictures have {LEVELS} pixel levels, the model of {run_path} has "
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
        data = load_data(source, split, validation=asked.validation)
        if data.shape[1:] == (height, width):
            return data
        if not asked.resize:
            raise NelboError(
                f"{source} has images of {data.shape[1]}×{data.shape[2]}, the model takes "
                f"{height}×{width}: give --resize to resize them"
            )
        return data.resize(height, width)
    return load_data(
        source,
        split,
        size=(height, width),
        channels=channels,
        validation=asked.validation,
        resize=asked.resize or asked.own,
    )


def _named(channels: int) -> str:
    return {1: "1 channel (grey)", 3: "3 channels (RGB)"}.get(channels, f"{channels} channels")
