r"""Which model to train: from a few settings and the data to a `Diffusion` around a network.

The defaults follow from the data. The noise of the default chain grows geometrically, from a
scale at which neighbouring pixel levels just begin to blur to one at which next to nothing of the
image is left; see docs/decisions/0002-default-chain.md.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from nelbo.base.errors import NelboError
from nelbo.data import ImageData
from nelbo.data.size import check_halvings, divisible_near
from nelbo.diffusion import Diffusion, NoiseSchedule, Pixels
from nelbo.diffusion.continuous import ContinuousDiffusion
from nelbo.evidence.feature_spaces import some_of
from nelbo.networks import UNet, UNetConfig
from nelbo.networks.denoiser import Denoiser
from nelbo.training.kinds.coordinates import prediction_of, schedule_of
from nelbo.training.kinds.pixel.options import SCHEDULES, ModelConfig
from nelbo.training.kinds.transformer import build_transformer, one_width
from nelbo.training.memory import built_within_memory

# σ_1 as a share of the distance between two pixel levels: between the spread of rounding, 1/√12,
# and half a bin.
_FIRST_NOISE = 1 / math.sqrt(8)
# Of the levels of a mixed chain; docs/decisions/0015-one-model-for-both.md.
_COSINE_SHARE = 0.5
# Images that the spread of the data is measured on, at most.
_SPREAD_OF = 2000


def build_schedule(config: ModelConfig, pixel_levels: int) -> NoiseSchedule:
    """The noise schedule of a config for data with `pixel_levels` pixel levels.

    One that is learned starts from the ends of the default.
    """
    first_noise = _FIRST_NOISE * 2 / (pixel_levels - 1)
    if config.schedule == "mixed":
        return NoiseSchedule.mixed(config.levels, first_noise, _COSINE_SHARE)
    if config.schedule in ("geometric", "learned"):
        return NoiseSchedule.geometric(config.levels, first_noise)
    return schedule_of(config.schedule, SCHEDULES, config.levels, config.shift, first_noise)


def build_unet(config: ModelConfig, data: ImageData) -> UNet:
    """The UNet of a config, for these images.

    Raises:
        NelboError: widths or attention that do not fit the images.
    """
    channels, height, width = data.shape
    widths = resolve(config, data).widths
    if min(widths) < 2:
        raise NelboError(f"--widths must be at least 2 channels each, got {list(widths)}")
    check_halvings(data.source, (height, width), len(widths))
    sizes = [min(height, width) >> level for level in range(len(widths))]
    unused = [size for size in config.attention if size not in sizes[1:]]
    # The default names the sizes that suit most images, not those of these.
    if unused and config.attention != ModelConfig().attention:
        raise NelboError(
            f"attention at {unused[0]} pixels: below the first one, the resolutions of this model "
            f"are {sizes[1:]}"
        )
    attends = [level > 0 and size in config.attention for level, size in enumerate(sizes)]
    shape = UNetConfig(
        sample_size=height if height == width else (height, width),
        in_channels=channels,
        out_channels=out_channels(config, data),
        block_out_channels=widths,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        layers_per_block=config.layers,
        attention_head_dim=math.gcd(16, *widths),
        norm_num_groups=math.gcd(8, *widths),
        dropout=config.dropout,
        num_class_embeds=data.num_classes if config.class_conditional else None,
    )
    return built_within_memory(lambda: UNet(shape))


def build_dit(config: ModelConfig, data: ImageData) -> Denoiser:
    """The transformer of a config, for these images.

    Raises:
        NelboError: a width or patch that does not fit the images.
    """
    return build_transformer(
        data.shape,
        width=one_width(config.widths, usual_width(*data.shape[1:])),
        blocks=config.blocks,
        patch=config.patch,
        out_channels=out_channels(config, data),
        num_classes=data.num_classes if config.class_conditional else 0,
        dropout=config.dropout,
        source=f"images of {data.source}",
    )


def out_channels(config: ModelConfig, data: ImageData) -> int:
    """Of a network: those of the images, and as many for a learned variance."""
    return data.shape[0] * (2 if config.variance == "learned_range" else 1)


def build_model(config: ModelConfig, data: ImageData) -> Diffusion | ContinuousDiffusion:
    """A fresh model for these images, in continuous time where its schedule is to be learned.

    Raises:
        NelboError: settings that do not fit together or the data.
    """
    if config.class_conditional and not data.num_classes:
        raise NelboError(
            f"{data.source} has no labels to condition on: put the pictures in a folder for each "
            "of two or more classes, add labels in metadata.jsonl (docs/data.md), or leave "
            "--class-conditional out"
        )
    network = build_dit(config, data) if config.network == "dit" else build_unet(config, data)
    model = Diffusion(
        network,
        build_schedule(config, data.levels),
        prediction=prediction_of(config.prediction, partial(_spread, data)),
        variance=config.variance,
        data=Pixels(data.levels),
        shape=data.shape,
        clip_sample=config.clip_sample,
    )
    return ContinuousDiffusion(model) if config.schedule == "learned" else model


def resolve(config: ModelConfig, data: ImageData) -> ModelConfig:
    """The config with what it leaves to the data filled in."""
    size = data.shape[1:]
    usual = (usual_width(*size),) if config.network == "dit" else _default_widths(*size)
    return replace(config, widths=config.widths or usual)


def usual_width(height: int, width: int) -> int:
    """The width of a transformer for pictures of this size where no time is given."""
    return 128 if max(height, width) <= 16 else 384


def _spread(data: ImageData) -> float:
    """The standard deviation of some of the images, as the network sees them."""
    return float(Pixels(data.levels).to_network(some_of(data.images, _SPREAD_OF)).std())


def _default_widths(height: int, width: int) -> tuple[int, ...]:
    """What suits pictures of this size where no time is given; see `network_size` where it is."""
    base = 32 if max(height, width) <= 16 else 64
    return (base, *[2 * base] * (default_depth(height, width) - 1))


def default_depth(height: int, width: int) -> int:
    """How many resolutions: halve while it stays whole and above one pixel, at most thrice."""
    depth = 1
    while depth < 4 and height % 2 == width % 2 == 0 and min(height, width) > 2:
        height, width, depth = height // 2, width // 2, depth + 1
    return depth


def halving_note(height: int, width: int) -> str:
    """A line on pictures of a size that cannot be halved twice, as those of 33 pixels; else ""."""
    halvings = default_depth(height, width) - 1
    if halvings >= 2 or min(height, width) < 8:
        return ""
    times = ("cannot be halved", "can be halved once")[halvings]
    return (
        f"note: {height}×{width} pixels {times}, so that the network sees them at "
        f"{halvings + 1} resolution{'s' * halvings} where 3 or 4 are usual, and is slow: "
        f"{divisible_near((height, width), 8)} suits it better"
    )
