r"""The autoencoder whose latents a latent diffusion model works on (Rombach et al. 2022).

A variational autoencoder with a Gaussian encoder, diagonal in z,

.. math:: q(z \mid x) = \mathcal{N}(\mu(x), \sigma^2(x)), \qquad \hat x = \mathrm{decode}(z),

whose two halves are UNets' halves without skip connections, levels or prompts. Names of weights
and config fields are those of diffusers' `AutoencoderKL`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Normal

from nelbo.base.errors import NelboError
from nelbo.networks.attention import SpatialSelfAttention
from nelbo.networks.autoencoder_config import DECODER_STAGES, ENCODER_STAGES, AutoencoderConfig
from nelbo.networks.encoding import Autoencoder
from nelbo.networks.normalization import ACTIVATIONS, silu
from nelbo.networks.pretrained import Pretrained
from nelbo.networks.resampling import Downsample, Upsample
from nelbo.networks.resnet import ResnetBlock
from nelbo.networks.stages import MidStage, Stage

EPS = 1e-6
LOG_VARIANCE_RANGE = (-30.0, 20.0)


class AutoencoderKL(Pretrained, Autoencoder):
    """Images to distributions over latents, and latents to images.

    Args:
        config: the shape of the network.
        **fields: instead of a config, the fields of an `AutoencoderConfig`.
    """

    config_classes = (AutoencoderConfig,)
    config: AutoencoderConfig

    def __init__(self, config: AutoencoderConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        channels = self.config.latent_channels
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.quant_conv = (
            nn.Conv2d(2 * channels, 2 * channels, 1) if self.config.use_quant_conv else None
        )
        self.post_quant_conv = (
            nn.Conv2d(channels, channels, 1) if self.config.use_post_quant_conv else None
        )

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.decoder.conv_in.weight.dtype

    def encode(self, x: Float[Tensor, "batch in_channels height width"]) -> Normal:
        """q(z | x), of shape (batch, latent_channels, height / f, width / f).

        Args:
            x: images in [−1, 1]; height and width must be multiples of f = `config.downscale`.
        """
        divisor = self.config.downscale
        _require_shape("x", x, self.config.in_channels)
        if x.shape[2] % divisor or x.shape[3] % divisor:
            raise NelboError(
                f"x is {x.shape[2]}×{x.shape[3]}, but this autoencoder needs height and width "
                f"divisible by {divisor}: resize or pad it"
            )
        h = self.encoder(x.to(self.dtype))
        if self.quant_conv is not None:
            h = self.quant_conv(h)
        mean, log_variance = h.chunk(2, dim=1)
        std = (0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE)).exp()
        return Normal(mean, std, validate_args=False)

    def decode(
        self, z: Float[Tensor, "batch latent_channels height width"]
    ) -> Float[Tensor, "batch out_channels image_height image_width"]:
        """The image of a latent, unclipped."""
        _require_shape("z", z, self.config.latent_channels)
        z = z.to(self.dtype)
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))

    def forward(self, x: Tensor) -> Tensor:
        """The image of the mean latent of an image."""
        return self.decode(self.encode(x).mean)


class Encoder(nn.Module):
    """From an image to mean and log-variance, before the 1×1 convolution."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        channels = widths[0]
        for level, (width, kind) in enumerate(zip(widths, config.down_block_types, strict=True)):
            self.down_blocks.append(
                AutoencoderStage(
                    _resnets(config, channels, width, config.layers_per_block),
                    _attentions(config, width, config.layers_per_block * ENCODER_STAGES[kind]),
                    downsampler=Downsample(width, padding=0) if level < len(widths) - 1 else None,
                )
            )
            channels = width
        self.mid_block = _middle(config)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels, eps=EPS)
        self.conv_out = nn.Conv2d(channels, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        h = self.conv_in(x)
        for stage in self.down_blocks:
            h = stage(h)
        return self.conv_out(silu(self.conv_norm_out(self.mid_block(h))))


class Decoder(nn.Module):
    """From a latent to an image, after the 1×1 convolution."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = _middle(config)
        self.up_blocks = nn.ModuleList()
        channels, count = widths[0], config.layers_per_block + 1
        for level, (width, kind) in enumerate(zip(widths, config.up_block_types, strict=True)):
            self.up_blocks.append(
                AutoencoderStage(
                    _resnets(config, channels, width, count),
                    _attentions(config, width, count * DECODER_STAGES[kind]),
                    upsampler=Upsample(width) if level < len(widths) - 1 else None,
                )
            )
            channels = width
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels, eps=EPS)
        self.conv_out = nn.Conv2d(channels, config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Apply the layers."""
        h = self.mid_block(self.conv_in(z))
        for stage in self.up_blocks:
            h = stage(h)
        return self.conv_out(silu(self.conv_norm_out(h)))


class AutoencoderStage(Stage):
    """Residual blocks at one resolution, then a change of it; no skip connections."""

    def __init__(
        self,
        resnets: Sequence[nn.Module],
        attentions: Sequence[nn.Module],
        *,
        downsampler: nn.Module | None = None,
        upsampler: nn.Module | None = None,
    ) -> None:
        super().__init__(resnets, attentions)
        self.downsamplers = nn.ModuleList([] if downsampler is None else [downsampler])
        self.upsamplers = nn.ModuleList([] if upsampler is None else [upsampler])

    def forward(self, h: Tensor) -> Tensor:
        """Apply the layers."""
        for resnet, attention in self.layers():
            h = resnet(h)
            if attention is not None:
                h = attention(h)
        for resample in (*self.downsamplers, *self.upsamplers):
            h = resample(h)
        return h


def _middle(config: AutoencoderConfig) -> MidStage:
    width = config.block_out_channels[-1]
    count = 1 if config.mid_block_add_attention else 0
    return MidStage(_resnets(config, width, width, 2), _attentions(config, width, count))


def _resnets(
    config: AutoencoderConfig, in_channels: int, channels: int, count: int
) -> list[ResnetBlock]:
    widths = [in_channels] + [channels] * (count - 1)
    activation = ACTIVATIONS[config.act_fn]
    return [
        ResnetBlock(
            width,
            channels,
            embedding_dim=None,
            groups=config.norm_num_groups,
            eps=EPS,
            activation=activation,
        )
        for width in widths
    ]


def _attentions(config: AutoencoderConfig, channels: int, count: int) -> list[SpatialSelfAttention]:
    return [
        SpatialSelfAttention(channels, head_dim=channels, groups=config.norm_num_groups, eps=EPS)
        for _ in range(count)
    ]


def _require_shape(name: str, value: Tensor, channels: int) -> None:
    if value.ndim != 4 or value.shape[1] != channels:
        raise NelboError(
            f"{name} has shape {tuple(value.shape)}, expected (batch, {channels}, height, width)"
        )
