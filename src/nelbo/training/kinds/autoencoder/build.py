"""Which autoencoder to train: from a few settings and the size of the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nelbo.base.errors import NelboError
from nelbo.data import ImageData
from nelbo.data.size import check_halvings
from nelbo.networks import AutoencoderConfig, AutoencoderKL
from nelbo.training.memory import built_within_memory

# Channels of an autoencoder's first resolution, and how often they double at most.
_FIRST_WIDTH, _LARGEST_GROWTH = 24, 3


def autoencoder_widths(height: int, width: int) -> tuple[int, ...]:
    """Channels at each resolution of an autoencoder for images of this size.

    Latents are half as large as images of up to 16 pixels, a quarter of those of up to 64, and 16
    pixels for larger ones, but never so small that they could not be halved once more: 8×8 for
    images of 32×32, 16×16 for 64×64, 14×14 for 28×28.
    """
    side = min(height, width)
    halvings = 1 if side <= 16 else 2 if side <= 64 else math.floor(math.log2(side / 16))
    while halvings and (height % 2 ** (halvings + 1) or width % 2 ** (halvings + 1)):
        halvings -= 1
    return tuple(_FIRST_WIDTH * 2 ** min(level, _LARGEST_GROWTH) for level in range(halvings + 1))


def build_autoencoder(
    data: ImageData,
    *,
    latent_channels: int = 8,
    widths: Sequence[int] | None = None,
    layers: int = 1,
) -> AutoencoderKL:
    """A fresh autoencoder for these images.

    Args:
        data: the images.
        latent_channels: channels of z.
        widths: channels at each resolution; latents are smaller than images by a factor of two
            for each after the first. By default as `autoencoder_widths`.
        layers: residual blocks at each resolution.

    Raises:
        NelboError: images that cannot be halved so often.
    """
    channels, height, width = data.shape
    widths = autoencoder_widths(height, width) if widths is None else widths
    check_halvings(data.source, (height, width), len(widths))
    config = AutoencoderConfig(
        in_channels=channels,
        out_channels=channels,
        latent_channels=latent_channels,
        sample_size=height if height == width else (height, width),
        block_out_channels=tuple(widths),
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=layers,
        norm_num_groups=math.gcd(8, *widths),
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    return built_within_memory(lambda: AutoencoderKL(config))


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


def freeze_encoder(autoencoder: AutoencoderKL) -> None:
    """Keep q(z|x) as it is while the decoder is trained."""
    for part in (autoencoder.encoder, autoencoder.quant_conv):
        if part is not None:
            part.requires_grad_(False)


def read_autoencoder(path: Path) -> AutoencoderKL | None:
    """The autoencoder of a run or pipeline, or one by itself; None without one."""
    for folder in ("vae", "vqvae", ""):
        if (path / folder / "config.json").is_file():
            return AutoencoderKL.from_pretrained(path, folder or None)
    return None


def autoencoder_at(path: Path) -> AutoencoderKL:
    """The autoencoder of a run or pipeline, or one by itself.

    Raises:
        NelboError: there is none.
    """
    autoencoder = read_autoencoder(path)
    if autoencoder is None:
        raise NelboError(f"{path} holds no autoencoder: there is no vae/")
    return autoencoder
