r"""The UNet: the network that every level of the decoder chain shares.

A stack of residual blocks goes down in resolution and up again; each block on the way up also
reads what a block on the way down left behind (Ronneberger et al. 2015, Ho et al. 2020). The
level t, and the class if there is one, enter every residual block as one vector

.. math:: e = \mathrm{MLP}(\mathrm{embed}(t)) + \mathrm{embed}(\mathrm{label})

(Dhariwal & Nichol 2021). Names of weights and config fields are those of diffusers' `UNet2DModel`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from nelbo.conditioning import Condition
from nelbo.errors import NelboError
from nelbo.networks.attention import SpatialSelfAttention
from nelbo.networks.embeddings import (
    EmbeddingMLP,
    GaussianFourier,
    LearnedTime,
    Sinusoidal,
    require_in_range,
)
from nelbo.networks.normalization import ACTIVATIONS, silu
from nelbo.networks.pretrained import Pretrained
from nelbo.networks.resampling import Downsample, Upsample, average_pool, nearest
from nelbo.networks.resnet import ResnetBlock
from nelbo.networks.stages import DownStage, MidStage, UpStage
from nelbo.networks.unet_config import CLASS_NAME, UNetConfig


class UNet(Pretrained):
    """The denoising network, called as `(x_t, network_time, condition)`.

    A fresh network starts as Ho et al. (2020) do: the last layer of every residual branch and of
    the network is zero, so that each block begins as the identity and the output as zero; all
    else is PyTorch's default.

    Args:
        **fields: those of `UNetConfig`.
    """

    class_name = CLASS_NAME
    config_class = UNetConfig
    config: UNetConfig

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        unknown = sorted(fields.keys() - UNetConfig.__dataclass_fields__.keys())
        if unknown:
            raise NelboError(f"UNet has no config field {unknown[0]!r}")
        self.config = config = UNetConfig(**fields)
        widths = config.block_out_channels

        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_proj, time_dim = time_embedding(config)
        self.time_embedding = EmbeddingMLP(time_dim, config.embedding_dim)
        self.class_embedding = class_embedding(config, time_dim)

        layers = LayerFactory(config)
        skip_widths = [widths[0]]
        channels = widths[0]
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            stage = layers.down_stage(level, channels)
            self.down_blocks.append(stage)
            channels = width
            skip_widths += [width] * (len(stage.resnets) + len(stage.downsamplers))
        self.mid_block = layers.mid_stage(channels)
        self.up_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            self.up_blocks.append(layers.up_stage(level, channels, skip_widths))
            channels = width

        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        self.embedding_activation = ACTIVATIONS[config.act_fn]
        zero_last_layers(self)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.conv_in.weight.dtype

    def forward(
        self,
        x_t: Float[Tensor, "batch in_channels height width"],
        network_time: Num[Tensor, " batch"] | Num[Tensor, ""],
        condition: Condition | None = None,
    ) -> Float[Tensor, "batch out_channels height width"]:
        """The network's prediction at x_t.

        Args:
            x_t: latents; height and width must be multiples of 2 to the number of halvings.
            network_time: what the network is told at each example's level, integer or fractional.
            condition: its label adds the class embedding; where there is none (−1, or no
                condition at all) nothing is added, which is the unconditional model.
        """
        self._check_input(x_t)
        network_time = network_time.to(x_t.device).expand(x_t.shape[0])
        embedding = self.embed(network_time, condition)
        h = x_t.to(self.dtype)
        if self.config.center_input_sample:
            h = 2 * h - 1

        h = self.conv_in(h)
        skips = [h]
        for stage in self.down_blocks:
            h, left_behind = stage(h, embedding)
            skips += left_behind
        if self.mid_block is not None:
            h = self.mid_block(h, embedding)
        for stage in self.up_blocks:
            h = stage(h, skips, embedding)
        h = self.conv_out(silu(self.conv_norm_out(h)))
        if self.config.time_embedding_type == "fourier":
            # The output is a score in units of the noise scale, which is what t is here.
            h = h / network_time.to(h.dtype)[:, None, None, None]
        return h

    def embed(
        self,
        network_time: Num[Tensor, " batch"] | Num[Tensor, ""],
        condition: Condition | None = None,
    ) -> Float[Tensor, "batch embedding_dim"]:
        """a(e): the summed embedding of time and label, activated, for all residual blocks."""
        embedding = self.time_embedding(self.time_proj(network_time).to(self.dtype))
        label = None if condition is None else condition.label
        if label is not None:
            embedding = embedding + self._embed_label(label)
        return self.embedding_activation(embedding)

    def _embed_label(self, label: Tensor) -> Tensor:
        table = self.class_embedding
        if table is None:
            raise NelboError(
                "a label was given to a network without classes (num_class_embeds=None): "
                "pass no label, or build the network with num_class_embeds"
            )
        if isinstance(table, nn.Identity):
            return label.to(self.dtype)
        if isinstance(table, nn.Embedding):
            classes = table.num_embeddings
            require_in_range(label, -1, classes, "condition.label", "num_class_embeds")
            embedded = table(label.clamp(min=0))
        else:
            embedded = table(self.time_proj(label).to(self.dtype))
        return embedded.masked_fill((label < 0)[:, None], 0)

    def _check_input(self, x_t: Tensor) -> None:
        config = self.config
        if x_t.ndim != 4 or x_t.shape[1] != config.in_channels:
            raise NelboError(
                f"x_t has shape {tuple(x_t.shape)}, expected (batch, {config.in_channels}, "
                "height, width)"
            )
        divisor = config.size_divisor
        height, width = x_t.shape[2:]
        if height % divisor or width % divisor:
            raise NelboError(
                f"x_t is {height}×{width}, but a UNet of {len(config.block_out_channels)} "
                f"resolutions needs height and width divisible by {divisor}: resize or pad it"
            )


class LayerFactory:
    """Builds the stages of a UNet from its config."""

    def __init__(self, config: UNetConfig) -> None:
        self.config = config
        self.last_level = len(config.block_out_channels) - 1

    def down_stage(self, level: int, in_channels: int) -> DownStage:
        """The stage at this resolution on the way down."""
        kind = self.config.down_stage(level)
        channels = self.config.block_out_channels[level]
        count = self.config.layers_per_block
        widths = [in_channels] + [channels] * (count - 1)
        downsampler: nn.Module | None = None
        if level < self.last_level:
            if kind.resample == "resnet":
                downsampler = self.resnet(channels, channels, resample=average_pool)
            else:
                downsampler = Downsample(channels, padding=self.config.downsample_padding)
        return DownStage(
            [self.resnet(width, channels) for width in widths],
            [self.attention(channels) for _ in range(count if kind.attention else 0)],
            downsampler,
        )

    def mid_stage(self, channels: int) -> MidStage | None:
        """The middle."""
        if self.config.mid_block_type is None:
            return None
        scale = self.config.mid_block_scale_factor
        attention = SpatialSelfAttention(
            channels,
            head_dim=self.config.head_dim(channels),
            groups=self.config.mid_attention_groups,
            eps=self.config.norm_eps,
            output_scale=scale,
        )
        return MidStage(
            [self.resnet(channels, channels, output_scale=scale) for _ in range(2)],
            [attention] if self.config.add_attention else [],
        )

    def up_stage(self, level: int, in_channels: int, skip_widths: list[int]) -> UpStage:
        """The stage at this resolution on the way up; takes its skip widths from the list."""
        kind = self.config.up_stage(level)
        channels = self.config.block_out_channels[level]
        count = self.config.layers_per_block + 1
        widths = [in_channels] + [channels] * (count - 1)
        upsampler: nn.Module | None = None
        if level > 0:
            if kind.resample == "resnet":
                upsampler = self.resnet(channels, channels, resample=nearest)
            else:
                upsampler = Upsample(channels)
        return UpStage(
            [self.resnet(width + skip_widths.pop(), channels) for width in widths],
            [self.attention(channels) for _ in range(count if kind.attention else 0)],
            upsampler,
        )

    def resnet(self, in_channels: int, out_channels: int, **options: Any) -> ResnetBlock:
        """A residual block."""
        return ResnetBlock(
            in_channels,
            out_channels,
            embedding_dim=self.config.embedding_dim,
            groups=self.config.norm_num_groups,
            eps=self.config.norm_eps,
            activation=ACTIVATIONS[self.config.act_fn],
            dropout=self.config.dropout,
            scale_shift=self.config.resnet_time_scale_shift == "scale_shift",
            **options,
        )

    def attention(self, channels: int) -> SpatialSelfAttention:
        """The attention layer that follows a residual block."""
        return SpatialSelfAttention(
            channels,
            head_dim=self.config.head_dim(channels),
            groups=self.config.norm_num_groups,
            eps=self.config.norm_eps,
        )


def time_embedding(config: UNetConfig) -> tuple[nn.Module, int]:
    """The embedding of the level, and its width."""
    width = config.block_out_channels[0]
    if config.time_embedding_type == "fourier":
        return GaussianFourier(width), 2 * width
    if config.time_embedding_type == "learned":
        assert config.num_train_timesteps is not None
        return LearnedTime(config.num_train_timesteps, width), width
    sinusoidal = Sinusoidal(width, freq_shift=config.freq_shift, cos_first=config.flip_sin_to_cos)
    return sinusoidal, width


def class_embedding(config: UNetConfig, time_dim: int) -> nn.Module | None:
    """The embedding of the label, or None for a network without classes."""
    if config.class_embed_type == "timestep":
        return EmbeddingMLP(time_dim, config.embedding_dim)
    if config.class_embed_type == "identity":
        return nn.Identity()
    if config.num_class_embeds is not None:
        return nn.Embedding(config.num_class_embeds, config.embedding_dim)
    return None


def zero_last_layers(network: UNet) -> None:
    """Start every residual branch, and the output, at zero."""
    last: list[Any] = [network.conv_out]
    for module in network.modules():
        if isinstance(module, ResnetBlock):
            last.append(module.conv2)
        elif isinstance(module, SpatialSelfAttention):
            last.append(module.to_out[0])
    for layer in last:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
