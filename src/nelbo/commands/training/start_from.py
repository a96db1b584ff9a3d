"""--start-from: the trained model that a new run begins with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nelbo.errors import NelboError
from nelbo.training.config import option

if TYPE_CHECKING:
    from nelbo.data import ImageData
    from nelbo.diffusers_format.pipelines import Model
    from nelbo.networks import AutoencoderKL

_PIXEL_PIPELINES = ("DDPMPipeline", "DDIMPipeline")


def kind_at(path: str) -> str | None:
    """What kind of model is in a directory or ships under a name; None where that is not known."""
    from nelbo.model_directory import INDEX_FILE, NELBO_FILE, resolve
    from nelbo.networks.files import read_json

    where = Path(resolve(path))
    if (where / INDEX_FILE).is_file():
        name = read_json(where / INDEX_FILE).get("_class_name")
        return "pixel" if name in _PIXEL_PIPELINES else "latent"
    holds_autoencoder = (where / "vae").is_dir() and (where / NELBO_FILE).is_file()
    return "autoencoder" if holds_autoencoder else None


def starting_model(path: str, kind: str) -> Model:
    """The diffusion model at a path, of a kind that can be trained on.

    Raises:
        NelboError: as `nelbo.load`, another kind, or networks that `nelbo train` does not train.
    """
    from nelbo.diffusers_format import load
    from nelbo.latent import LatentDiffusion
    from nelbo.networks import UNet

    found = kind_at(path)
    if found == "autoencoder":
        raise NelboError(
            f"--start-from: {path} holds an autoencoder; train its prior with --autoencoder {path}"
        )
    model = load(path)
    found = "latent" if isinstance(model, LatentDiffusion) else "pixel"
    if found != kind:
        raise NelboError(
            f"--start-from: {path} is a diffusion model of {found}s: give --model {found}"
        )
    chain = model.prior if isinstance(model, LatentDiffusion) else model
    if not isinstance(chain.network, UNet):
        raise NelboError(
            f"--start-from: {path} has a {type(chain.network).__name__}, and only a UNet can be "
            "trained on: start from the pipeline without it"
        )
    return _unfitted(model)


def starting_autoencoder(path: str, image: Sequence[int]) -> AutoencoderKL:
    """The autoencoder at a path, by itself or of a pipeline, for images of another size or not.

    Args:
        path: a run, pipeline, autoencoder, the name of a checkpoint that ships, or a Hub id.
        image: (C, H, W) of the images.

    Raises:
        NelboError: there is none, or one of other channels or a size that it cannot halve.
    """
    from nelbo.diffusers_format import load
    from nelbo.latent import LatentDiffusion
    from nelbo.model_directory import resolve
    from nelbo.networks import AutoencoderKL

    autoencoder = read_autoencoder(Path(resolve(path)))
    if autoencoder is None:
        model = load(path)
        if not isinstance(model, LatentDiffusion):
            raise NelboError(f"--start-from: {path} is a model of pixels, without an autoencoder")
        autoencoder = model.autoencoder
    config, (channels, height, width) = autoencoder.config, image
    if config.in_channels != channels or height % config.downscale or width % config.downscale:
        raise NelboError(
            f"--start-from: the autoencoder of {path} takes {config.in_channels} channels and "
            f"sides divisible by {config.downscale}; the images have shape {tuple(image)}"
        )
    # It is convolutional: its size is that of what it is trained on.
    fitting = AutoencoderKL(replace(config, sample_size=(height, width)))
    fitting.load_state_dict(autoencoder.state_dict())
    return fitting


def read_autoencoder(path: Path) -> AutoencoderKL | None:
    """The autoencoder of a run or pipeline, or one by itself; None where there is none."""
    from nelbo.networks import AutoencoderKL

    for folder in ("vae", "vqvae", ""):
        if (path / folder / "config.json").is_file():
            return AutoencoderKL.from_pretrained(path, folder or None)
    return None


def check_classes(model: Model, data: ImageData) -> None:
    """Raise `NelboError` unless the images have the classes that a model is told of, if any."""
    if model.num_classes not in (0, data.num_classes):
        raise NelboError(
            f"{data.source} has {data.num_classes} classes, the model to start from is told of "
            f"{model.num_classes}"
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
            raise NelboError(
                f"{option(field.name)} {value!r}: with --start-from the model stays as it was "
                "built; leave it out"
            )


def _unfitted(model: Model) -> Model:
    """Without what was measured of its weights, which are going to change."""
    from nelbo.latent import LatentDiffusion

    chain = model.prior if isinstance(model, LatentDiffusion) else model
    if chain.profile is None:
        return model
    if chain.variance == "analytic":
        raise NelboError(
            "--start-from: the variance of this model was measured for its weights (analytic), "
            "which training changes: start from the run as it was before nelbo fit"
        )
    chain.profile = None
    return model
