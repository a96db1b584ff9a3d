"""--start-from: the trained model that a new run begins with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from nelbo.base.errors import NelboError
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.data.credits import licence_asked, sources_of
from nelbo.data.size import Size
from nelbo.diffusion import Diffusion
from nelbo.formats import load
from nelbo.formats.files import read_own
from nelbo.formats.model_directory import CARD_FILE, holds_autoencoder_alone, resolve
from nelbo.formats.pipeline import Pipeline
from nelbo.latent import LatentDiffusion
from nelbo.networks import AutoencoderKL, UNet
from nelbo.report.model_card import licence_of
from nelbo.training.classes import with_classes
from nelbo.training.config import option

StartClasses = Literal["same", "new", "none"]


def kind_at(path: str) -> str | None:
    """What kind of whole model a path, name or Hub id stands for; None where that is not known."""
    if holds_autoencoder_alone(resolve(path)):
        return "autoencoder"
    try:  # a pipeline's index is written last
        return Pipeline.open(path).kind
    except NelboError:
        return None


def starting_model(path: str, kind: str) -> Model:
    """The diffusion model at a path, of a kind that can be trained on.

    Raises:
        NelboError: as `nelbo.load`, another kind, or networks that `nelbo train` does not train.
    """
    found = kind_at(path)
    if found == "autoencoder":
        raise NelboError(
            f"--start-from: {path} holds an autoencoder; train its prior with --autoencoder {path}"
        )
    if found not in (None, kind):
        raise NelboError(
            f"--start-from: {path} is a diffusion model of {found}s: give --model {found}"
        )
    try:
        model = load(path)
    except NelboError as error:
        raise NelboError(f"--start-from: {error}") from error
    chain: Diffusion | None = model.chain
    if chain is None:
        raise NelboError(f"--start-from: {path} is a {type(model).__name__}, which has no network")
    if not isinstance(chain.network, UNet):
        raise NelboError(
            f"--start-from: {path} has a {type(chain.network).__name__}, and only a UNet can be "
            "trained on: start from the pipeline without it"
        )
    return _unfitted(model)


def starting_autoencoder(path: str) -> AutoencoderKL:
    """The autoencoder at a path, by itself or of a pipeline.

    Args:
        path: a run, pipeline or autoencoder, the name of a checkpoint that ships, or the Hub id of
            a pipeline.

    Raises:
        NelboError: there is none.
    """
    autoencoder = read_autoencoder(Path(resolve(path)))
    if autoencoder is not None:
        return autoencoder
    model = load(path)
    if not isinstance(model, LatentDiffusion):
        raise NelboError(f"--start-from: {path} is a model of pixels, without an autoencoder")
    return model.autoencoder


def fitted(autoencoder: AutoencoderKL, image: Sequence[int]) -> AutoencoderKL:
    """The autoencoder as one of images (C, H, W); it is convolutional, and takes other sizes.

    Raises:
        NelboError: it has other channels, or sides that it cannot halve so often.
    """
    config, (channels, height, width) = autoencoder.config, image
    if config.in_channels != channels or height % config.downscale or width % config.downscale:
        raise NelboError(
            f"--start-from: the autoencoder takes {config.in_channels} channels and sides "
            f"divisible by {config.downscale}; the images have shape {tuple(image)}"
        )
    fitting = AutoencoderKL(replace(config, sample_size=(height, width)))
    fitting.load_state_dict(autoencoder.state_dict())
    return fitting


def origin_of(path: str) -> dict[str, Any]:
    """What is to be remembered of a model that training begins with: whose images made it, and
    under which licence it stands."""
    own = read_own(resolve(path)) or {}
    card = Path(resolve(path)) / CARD_FILE
    named = licence_of(card.read_text(errors="replace")) if card.is_file() else None
    return {
        "model": path,
        "sources": sources_of(own),
        "licence": named or licence_asked(own),
    }


def frame_of(model: Model | AutoencoderKL) -> tuple[Size | None, int | None]:
    """The size and channels of the images that a model is of; None where it does not say."""
    if isinstance(model, AutoencoderKL):
        size = model.config.sample_size
        square = (size, size) if isinstance(size, int) else size
        return None if square is None else (square[0], square[1]), model.config.in_channels
    if model.shape is None:
        return None, None
    channels, height, width = model.shape
    return (height, width), channels


def read_autoencoder(path: Path) -> AutoencoderKL | None:
    """The autoencoder of a run or pipeline, or one by itself; None where there is none."""
    for folder in ("vae", "vqvae", ""):
        if (path / folder / "config.json").is_file():
            return AutoencoderKL.from_pretrained(path, folder or None)
    return None


def fit_classes(path: str, model: Model, data: ImageData, choice: StartClasses) -> None:
    """Give a model the classes of the images, as far as it is asked for.

    Args:
        path: where the model comes from.
        model: the model, which is changed.
        data: the images.
        choice: "same" where both must have the same classes; "new" for those of the images; "none"
            for a model without.

    Raises:
        NelboError: classes that differ, or images without classes for "new".
    """
    noted = (read_own(resolve(path)) or {}).get("label_names") or ()
    names = noted if len(noted) == model.num_classes else ()
    if choice == "same":
        _check_same(model.num_classes, names, data)
        return
    if choice == "new" and not data.num_classes:
        raise NelboError(f"--start-classes new: {data.source} has no classes")
    wanted = data.label_names if choice == "new" else ()
    if model.num_classes == len(wanted) and tuple(names) == tuple(wanted):
        return
    chain: Diffusion = model.chain
    assert isinstance(chain.network, UNet)  # as `starting_model` has seen
    chain.network = with_classes(chain.network, names, wanted)


def _check_same(classes: int, names: Sequence[str], data: ImageData) -> None:
    """Raise `NelboError` unless the images have the classes of the model, if it has any."""
    if not classes:
        return
    ways = (
        "give --start-classes new for an embedding of these classes, where those of the same name "
        "keep theirs, or --start-classes none for a model without classes"
    )
    if classes != data.num_classes:
        raise NelboError(
            f"{data.source} has {data.num_classes} classes, the model to start from {classes}: "
            f"{ways}"
        )
    differ = [pair for pair in zip(names, data.label_names, strict=False) if pair[0] != pair[1]]
    if differ:
        raise NelboError(
            f"the classes of {data.source} are not those of the model to start from: "
            f"{differ[0][1]!r} stands where it has {differ[0][0]!r}: {ways}"
        )


def check_settings(settings: Any, usual: Any, free: Sequence[str]) -> None:
    """Raise `NelboError` for a setting of the model that a model which is there already decides.

    Args:
        settings: of the model.
        usual: as they are where nothing is said.
        free: those that can be chosen all the same.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name not in free and value != getattr(usual, field.name):
            conditions = field.name == "class_conditional"
            hint = ", or give --start-classes new for the classes of the images"
            raise NelboError(
                f"{option(field.name)} {value!r}: with --start-from the model stays as it was "
                f"built; leave it out{hint if conditions else ''}"
            )


def _unfitted(model: Model) -> Model:
    """Without what was measured of its weights, which are going to change."""
    chain: Diffusion = model.chain
    if chain.profile is None:
        return model
    if chain.variance == "analytic":
        raise NelboError(
            "--start-from: the variance of this model was measured for its weights (analytic), "
            "which training changes: start from the run as it was before nelbo fit"
        )
    chain.profile = None
    return model
