"""Spaces in which sets of pictures are compared: a name, and a vector of features of each picture.

The Inception and DINO features of the literature need weights that are not part of nelbo. Without
them two spaces are fitted on real pictures, and their figures compare only with others in the same
space of the same pictures:

- *principal components*: the first 32 of the pixels, in −1..1 and not whitened, which see colours
  and layout;
- *random convolutions*: three layers of random 3×3 filters, each averaged over the picture, the
  last over its quarters too, then the first 32 principal components of those, which see edges and
  textures.

Both are fitted on at most 2,000 of the real pictures, drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from nelbo.base.errors import MissingExtraError, NelboError
from nelbo.base.files import read_json
from nelbo.chain.distributions import some_places

COMPONENTS = 32
_FITTED_ON = 2000
_BATCH = 128
# Channels of the random convolutions.
_CHANNELS = (32, 64, 64)
# Defaults of published networks, if their directory has no such entry.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class FeatureSpace:
    """A named map of pictures to vectors.

    Attributes:
        name: what to call it beside a figure.
        map: pictures in [−1, 1], (B, C, H, W) float32, to features (B, D).
        levels: how many levels a pixel has.
        unit: what the kernel distance divides features by: their root mean square where the space
            was fitted on pictures, 1 for the features of a trained network.
    """

    name: str
    map: Callable[[Tensor], Tensor]
    levels: int
    unit: float = 1.0

    @torch.no_grad()
    def __call__(
        self, images: UInt8[Tensor, "n channels height width"]
    ) -> Float[Tensor, "n features"]:
        """The features of each picture, float64, a batch at a time."""
        return torch.cat(
            [
                self.map(to_network(some, self.levels)).double().cpu()
                for some in images.split(_BATCH)
            ]
        )


def to_network(images: UInt8[Tensor, "..."], levels: int) -> Float[Tensor, "..."]:
    """Pixel levels 0..levels−1 as float32 in [−1, 1]."""
    return images.float() * (2 / (levels - 1)) - 1


def some_of(images: Tensor, count: int, seed: int = 0) -> Tensor:
    """At most `count` of the images, drawn at random, in their order."""
    return images if len(images) <= count else images[some_places(len(images), count, seed)]


def principal_components(
    images: UInt8[Tensor, "n channels height width"], levels: int, count: int = COMPONENTS
) -> FeatureSpace:
    """The first principal components of the pixels of some real pictures.

    A picture's features are its pixels in −1..1, less their mean, along the `count` directions of
    largest variance; fewer where there are not as many pictures or values.

    Raises:
        NelboError: fewer than two pictures.
    """
    flat = to_network(some_of(images, _FITTED_ON), levels).flatten(1)
    mean, directions, variances = _components(flat, count)
    return FeatureSpace(
        f"{len(variances)} principal components",
        lambda x: (x.flatten(1) - mean) @ directions,
        levels,
        _unit(variances),
    )


def random_convolutions(
    images: UInt8[Tensor, "n channels height width"], levels: int, count: int = COMPONENTS
) -> FeatureSpace:
    """Principal components of random convolutional features of some real pictures.

    Raises:
        NelboError: fewer than two pictures.
    """
    generator = torch.Generator().manual_seed(0)
    filters, width = [], images.shape[1]
    for channels in _CHANNELS:
        drawn = torch.randn(channels, width, 3, 3, generator=generator)
        filters.append(drawn * (2 / (9 * width)) ** 0.5)
        width = channels

    def raw(x: Tensor) -> Tensor:
        features = []
        for k, weight in enumerate(filters):
            if k and min(x.shape[-2:]) > 1:
                x = F.avg_pool2d(x, 2, ceil_mode=True)
            x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight))
            features.append(x.mean((2, 3)))
        features.append(F.adaptive_avg_pool2d(x, 2).flatten(1))
        return torch.cat(features, 1)

    fitted = some_of(images, _FITTED_ON)
    features = torch.cat([raw(to_network(some, levels)) for some in fitted.split(_BATCH)])
    mean, directions, variances = _components(features, count)
    return FeatureSpace(
        "random convolutions",
        lambda x: (raw(x) - mean) @ directions,
        levels,
        _unit(variances),
    )


def check_vision_model(directory: str | Path) -> Path:
    """The directory of a vision model.

    Raises:
        NelboError: it does not hold one, or one in a format that is not safe to read.
    """
    path = Path(directory).expanduser()
    if not (path / "config.json").is_file() or not (path / _WEIGHTS).is_file():
        raise NelboError(
            f"{directory} is no vision model: expected a directory with config.json and "
            f"{_WEIGHTS}, as transformers saves DINOv2. Weights in other formats (.pth, .pt, .bin) "
            "can run code when they are read, so they are not"
        )
    return path


def vision_model(directory: str | Path, levels: int) -> FeatureSpace:
    """The features of a trained vision model that `transformers` reads, such as DINOv2 or CLIP.

    A picture is resized to the side that the model takes; its features are the pooled output, or
    the class token.

    Args:
        directory: a local directory with config.json and model.safetensors.
        levels: how many levels a pixel has.

    Raises:
        NelboError: no such directory, weights in another format, or a model of something else.
        MissingExtraError: transformers is not installed.
    """
    path = check_vision_model(directory)
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("features of a vision model", "text") from None
    try:
        model: Any = transformers.AutoModel.from_pretrained(
            str(path), local_files_only=True, use_safetensors=True
        ).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise NelboError(f"{directory} cannot be read as a vision model: {error}") from error
    config = getattr(model.config, "vision_config", model.config)
    if getattr(config, "image_size", None) is None:
        raise NelboError(
            f"{directory} is no vision model: its config.json has no image_size, expected one such "
            "as DINOv2, ViT or CLIP"
        )
    return FeatureSpace(
        f"{model.config.model_type} features of {path.resolve().name}",
        _Vision(model, *_preprocessing(path, config.image_size)),
        levels,
    )


class _Vision:
    """A vision model with what it does to pictures first."""

    def __init__(self, model: Any, side: int, mean: Tensor, std: Tensor) -> None:
        self.model, self.side, self.mean, self.std = model, side, mean, std

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
        pooled = getattr(output, "pooler_output", None)
        return output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)


def _preprocessing(path: Path, image_size: int | tuple[int, int]) -> tuple[int, Tensor, Tensor]:
    """The side of a picture, and mean and spread of its colours, (1, 3, 1, 1)."""
    file = path / "preprocessor_config.json"
    settings = read_json(file) if file.exists() else {}
    side = settings.get("crop_size") or settings.get("size") or image_size
    if isinstance(side, dict):
        side = side.get("height") or side.get("shortest_edge") or image_size
    side = side if isinstance(side, int) else side[0]
    mean, std = (
        torch.tensor(settings.get(name) or usual).view(1, 3, 1, 1)
        for name, usual in (("image_mean", _IMAGENET_MEAN), ("image_std", _IMAGENET_STD))
    )
    return side, mean, std


def _components(flat: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mean, the directions (D, count) of largest variance, and those variances."""
    if len(flat) < 2:
        raise NelboError(f"features are fitted on at least 2 pictures, got {len(flat)}")
    n, dims = flat.shape
    mean = flat.mean(0)
    centred = (flat - mean).double()
    count = min(count, n - 1, dims)
    # The eigenvectors of the smaller of the two products hold both.
    if dims <= n:
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        directions = vectors[:, -count:].flip(1)
    else:
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        kept = values[-count:].flip(0).clamp(min=1e-12).sqrt()
        directions = centred.T @ (vectors[:, -count:].flip(1) / kept)
    return mean, directions.float(), values[-count:].flip(0).clamp(min=0) / (n - 1)


def _unit(variances: Tensor) -> float:
    return max(float(variances.mean().sqrt()), 1e-6)
