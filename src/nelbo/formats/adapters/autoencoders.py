"""The autoencoders of adapted pipelines: nelbo's own, and those of diffusers behind its form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from nelbo.formats.adapters.parts import load_part
from nelbo.formats.config_fields import ConfigFields
from nelbo.formats.pipeline import Pipeline
from nelbo.networks import AutoencoderKL
from nelbo.networks.encoding import Autoencoder
from nelbo.networks.files import CONFIG_FILE

FOLDER = "vae"
# The standard deviation of q(z|x) of an autoencoder that has none, in units of the scaled latents.
ENCODER_SCALE = 0.1


@dataclass(frozen=True)
class EncodingConfig:
    """The shape of an autoencoder of diffusers.

    Attributes:
        in_channels: of the image.
        latent_channels: of z.
        downscale: ratio of the sides of both.
        fields: its own configuration, and what else decides its answer.
    """

    in_channels: int
    latent_channels: int
    downscale: int
    fields: Mapping[str, Any]
    sample_size: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """All that decides its answers beside the weights."""
        return {name: value for name, value in self.fields.items() if name[0] != "_"}


class Around(Autoencoder):
    """An autoencoder by means of another, whose files are its own."""

    def __init__(self, autoencoder: Any, config: Any) -> None:
        super().__init__()
        self.autoencoder, self.config = autoencoder, config

    def save_pretrained(self, path: Any) -> None:
        """Write the other autoencoder as it was."""
        self.autoencoder.save_pretrained(path)


class Standardised(Around):
    """The latents of an autoencoder, less a mean and by a scale, one for each channel or for all.

    Args:
        autoencoder: another.
        mean: what is subtracted from z.
        scale: what z is then multiplied by.
    """

    def __init__(
        self, autoencoder: Any, mean: float | Sequence[float], scale: float | Sequence[float]
    ) -> None:
        super().__init__(autoencoder, autoencoder.config)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scale).view(-1, 1, 1), persistent=False)

    def encode(self, x: Tensor) -> Normal:
        """q of the standardised latents."""
        q = self.autoencoder.encode(x)
        mean, scale = self.get_buffer("mean"), self.get_buffer("scale")
        return Normal((q.mean - mean) * scale, q.stddev * scale, validate_args=False)

    def decode(self, z: Tensor) -> Tensor:
        """The image of standardised latents."""
        return self.autoencoder.decode(z / self.get_buffer("scale") + self.get_buffer("mean"))


class Pointwise(Around):
    """An autoencoder of diffusers without q(z|x): a normal of a given scale around its code.

    The bound holds for every q, so for this one; a smaller scale costs more nats.

    Args:
        autoencoder: an `AutoencoderDC`.
        std: the standard deviation of q, in the units of its code.
    """

    def __init__(self, autoencoder: Any, std: float) -> None:
        found = autoencoder.config
        config = EncodingConfig(
            found["in_channels"],
            found["latent_channels"],
            2 ** (len(found["encoder_block_out_channels"]) - 1),
            {**found, "std": std},
        )
        super().__init__(autoencoder, config)
        self.std = std

    def encode(self, x: Tensor) -> Normal:
        """The normal around the code of each image."""
        mean = self.autoencoder.encode(x).latent
        return Normal(mean, torch.full_like(mean, self.std), validate_args=False)

    def decode(self, z: Tensor) -> Tensor:
        """The image of a code."""
        return self.autoencoder.decode(z).sample


class OneFrame(Around):
    """An autoencoder of films, for pictures: films of one frame.

    Args:
        autoencoder: an `AutoencoderKLQwenImage`.
    """

    def __init__(self, autoencoder: Any) -> None:
        found = autoencoder.config
        config = EncodingConfig(
            found.get("input_channels", 3),
            found["z_dim"],
            2 ** len(found["temperal_downsample"]),
            dict(found),
        )
        super().__init__(autoencoder, config)

    def encode(self, x: Tensor) -> Normal:
        """q(z|x) of pictures."""
        q = self.autoencoder.encode(x.unsqueeze(2)).latent_dist
        return Normal(q.mean.squeeze(2), q.std.squeeze(2), validate_args=False)

    def decode(self, z: Tensor) -> Tensor:
        """The picture of latents."""
        return self.autoencoder.decode(z.unsqueeze(2)).sample.squeeze(2)


def kl_autoencoder(pipeline: Pipeline) -> Autoencoder:
    """An `AutoencoderKL`, whose latents are shifted and scaled as its configuration has it."""
    pipeline.index.require(FOLDER, "AutoencoderKL")
    own = AutoencoderKL.from_pretrained(pipeline.path, FOLDER)
    return Standardised(own, own.config.shift_factor or 0.0, own.config.scaling_factor)


def point_autoencoder(pipeline: Pipeline) -> Autoencoder:
    """An `AutoencoderDC`, whose latents are scaled."""
    found = load_part(pipeline, FOLDER, "diffusers", ("AutoencoderDC",), dtype=torch.float32)
    scale = _fields(pipeline, found).positive("scaling_factor")
    return Standardised(Pointwise(found, ENCODER_SCALE / scale), 0.0, scale)


def film_autoencoder(pipeline: Pipeline) -> Autoencoder:
    """An `AutoencoderKLQwenImage`, whose latents are standardised by channel."""
    classes = ("AutoencoderKLQwenImage",)
    found = load_part(pipeline, FOLDER, "diffusers", classes, dtype=torch.float32)
    channels, fields = found.config["z_dim"], _fields(pipeline, found)
    mean, std = (fields.numbers(name, channels) for name in ("latents_mean", "latents_std"))
    if min(std) <= 0:
        raise fields.wrong("latents_std", f"a list of {channels} numbers above 0")
    return Standardised(OneFrame(found), mean, [1 / value for value in std])


def _fields(pipeline: Pipeline, autoencoder: Any) -> ConfigFields:
    """The configuration of an autoencoder that a library has read."""
    return ConfigFields(Path(pipeline.path) / FOLDER / CONFIG_FILE, autoencoder.config)
