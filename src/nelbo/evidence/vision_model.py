"""The features of a trained vision model that `transformers` reads, such as DINOv2 or CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nelbo.base.console import quiet
from nelbo.base.errors import NelboError, explained, optional
from nelbo.base.files import read_json
from nelbo.evidence.feature_spaces import FeatureSpace
from nelbo.formats.config_fields import ConfigFields
from nelbo.networks.config import is_positive_int
from nelbo.networks.files import CONFIG_FILE
from nelbo.networks.finite import check_finite_weights

_WEIGHTS, _PREPROCESSING = "model.safetensors", "preprocessor_config.json"
# Defaults of published networks, if their directory has no such entry.
_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
# What checkpoints of classifiers leave out, so that the class token is read in its place.
_POOLER = "pooler."


def check_vision_model(directory: str | Path) -> Path:
    """The directory of a vision model.

    Raises:
        NelboError: it does not hold one, or one in a format that is not safe to read.
    """
    path = Path(directory).expanduser()
    if not (path / CONFIG_FILE).is_file() or not (path / _WEIGHTS).is_file():
        raise NelboError(
            f"{directory} is no vision model: expected a directory with {CONFIG_FILE} and "
            f"{_WEIGHTS}, as transformers saves DINOv2. Weights in other formats (.pth, .pt, .bin) "
            "can run code when they are read, so they are not"
        )
    return path


def vision_model(directory: str | Path, levels: int) -> FeatureSpace:
    """The features of the model in a directory, as a space.

    A picture is resized to the side that the model takes; its features are the pooled output, or
    the class token.

    Args:
        directory: a local directory with config.json and model.safetensors.
        levels: how many levels a pixel has.

    Raises:
        NelboError: no such directory, weights in another format, a model of something else, or
            files that are damaged.
        MissingExtraError: transformers is not installed.
    """
    path = check_vision_model(directory)
    transformers = optional("transformers", "features of a vision model", "diffusers")
    config = ConfigFields(path / CONFIG_FILE, read_json(path / CONFIG_FILE))
    # The library raises whatever it meets in a damaged file.
    broken = explained(f"{directory} cannot be read as a vision model", Exception)
    with broken, quiet("transformers"):
        model, loading = transformers.AutoModel.from_pretrained(
            str(path), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    missing = {name for name in loading["missing_keys"] if not name.startswith(_POOLER)}
    if missing:
        raise NelboError(
            f"{path / _WEIGHTS} has no weights {min(missing)!r}, which would be random: expected "
            f"all weights of a {type(model).__name__}"
        )
    check_finite_weights(dict(model.named_parameters()), path / _WEIGHTS)
    of_pictures = getattr(model.config, "vision_config", model.config)
    if getattr(of_pictures, "image_size", None) is None:
        raise NelboError(
            f"{directory} is no vision model: its {CONFIG_FILE} has no image_size, expected one "
            "such as DINOv2, ViT or CLIP"
        )
    pools = missing == set(loading["missing_keys"])
    features = _Vision(model.eval(), *_preprocessing(path, of_pictures.image_size, config), pools)
    what = (
        f"{directory}: the model gives no features of pictures of {features.side} pixels a side, "
        f"which its {CONFIG_FILE} and {_PREPROCESSING} ask for"
    )
    with explained(what, Exception):
        features(torch.zeros(1, 3, 1, 1))
    name = f"{model.config.model_type} features of {path.resolve().name}"
    return FeatureSpace(name, features, levels)


class _Vision:
    """A vision model with what it does to pictures first."""

    def __init__(self, model: Any, side: int, mean: Tensor, std: Tensor, pools: bool) -> None:
        self.model, self.side, self.mean, self.std, self.pools = model, side, mean, std, pools

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        colour = x.expand(-1, 3, -1, -1)
        resized = F.interpolate(colour, (self.side, self.side), mode="bicubic", antialias=True)
        pixels = ((resized.clamp(-1, 1) + 1) / 2 - self.mean) / self.std
        if hasattr(self.model, "get_image_features"):
            output = self.model.get_image_features(pixel_values=pixels)
        else:
            output = self.model(pixel_values=pixels)
        if isinstance(output, Tensor):
            return output
        pooled = getattr(output, "pooler_output", None) if self.pools else None
        return output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)


def _preprocessing(path: Path, size: Any, config: ConfigFields) -> tuple[int, Tensor, Tensor]:
    """The side of a picture, and mean and spread of its colours, (1, 3, 1, 1).

    Args:
        path: the directory.
        size: the side, or sides, that the model was built for.
        config: where that is from.
    """
    file = path / _PREPROCESSING
    settings = ConfigFields(file, read_json(file) if file.exists() else {})
    sides = (_side(settings, name, settings.fields.get(name)) for name in ("crop_size", "size"))
    side = next(filter(None, sides), None) or _side(config, "image_size", size)
    if side is None:
        raise config.wrong("image_size", "a number of pixels")
    mean, std = (
        torch.tensor(settings.if_any(settings.numbers, name, 3) or usual).view(1, 3, 1, 1)
        for name, usual in _IMAGENET.items()
    )
    if not (std > 0).all():
        raise settings.wrong("image_std", "a list of 3 numbers above 0")
    return side, mean, std


def _side(fields: ConfigFields, name: str, value: Any) -> int | None:
    """The side in a field that has one in one of several forms; None without one."""
    if isinstance(value, dict):
        value = value.get("height") or value.get("shortest_edge")
    elif isinstance(value, list | tuple) and value:
        value = value[0]
    if value is not None and not is_positive_int(value):
        raise fields.wrong(name, "a number of pixels")
    return value
