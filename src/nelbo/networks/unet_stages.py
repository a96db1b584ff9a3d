"""From a config to the stages of a UNet: which layers, how wide, in which order."""

from __future__ import annotations

from typing import Any

from torch import nn

from nelbo.networks.attention import SpatialSelfAttention
from nelbo.networks.normalization import ACTIVATIONS
from nelbo.networks.resampling import Downsample, Upsample, average_pool, nearest
from nelbo.networks.resnet import ResnetBlock
from nelbo.networks.stages import DownStage, MidStage, UpStage
from nelbo.networks.text_unet_config import TextUNetConfig
from nelbo.networks.transformer import SpatialTransformer
from nelbo.networks.unet_config import UNetConfig


class StageFactory:
    """Builds the stages of a UNet from its config."""

    def __init__(self, config: UNetConfig | TextUNetConfig) -> None:
        self.config = config
        self.last_level = len(config.block_out_channels) - 1

    def down_stage(self, level: int, in_channels: int) -> DownStage:
        """The stage at this resolution on the way down."""
        kind = self.config.down_stage(level)
        channels = self.config.block_out_channels[level]
        count = self.config.layers[level]
        widths = [in_channels] + [channels] * (count - 1)
        downsampler: nn.Module | None = None
        if level < self.last_level:
            if kind.resample == "resnet":
                downsampler = self.resnet(channels, channels, resample=average_pool)
            else:
                downsampler = Downsample(channels, padding=self.config.downsample_padding)
        return DownStage(
            [self.resnet(width, channels) for width in widths],
            self.attentions(kind.attention, level, count),
            downsampler,
        )

    def mid_stage(self, channels: int) -> MidStage | None:
        """The middle."""
        config, kind = self.config, self.config.mid
        if kind is None:
            return None
        scale = config.mid_block_scale_factor
        attentions: list[nn.Module] = []
        if kind.attention == "cross":
            attentions.append(self.transformer(self.last_level))
        elif kind.attention == "self":
            attentions.append(self.self_attention(self.last_level, scale, middle=True))
        return MidStage(
            [self.resnet(channels, channels, output_scale=scale) for _ in range(kind.resnets)],
            attentions,
        )

    def up_stage(self, level: int, in_channels: int, skip_widths: list[int]) -> UpStage:
        """The stage at this resolution on the way up; takes its skip widths from the list."""
        kind = self.config.up_stage(level)
        channels = self.config.block_out_channels[level]
        count = self.config.layers[level] + 1
        widths = [in_channels] + [channels] * (count - 1)
        upsampler: nn.Module | None = None
        if level > 0:
            if kind.resample == "resnet":
                upsampler = self.resnet(channels, channels, resample=nearest)
            else:
                upsampler = Upsample(channels)
        return UpStage(
            [self.resnet(width + skip_widths.pop(), channels) for width in widths],
            self.attentions(kind.attention, level, count),
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

    def attentions(self, kind: str | None, level: int, count: int) -> list[nn.Module]:
        """The attention layers that follow the residual blocks of a stage."""
        if kind == "cross":
            return [self.transformer(level) for _ in range(count)]
        if kind == "self":
            return [self.self_attention(level) for _ in range(count)]
        return []

    def self_attention(
        self, level: int, output_scale: float = 1.0, *, middle: bool = False
    ) -> SpatialSelfAttention:
        """Attention among the positions of one resolution."""
        assert isinstance(self.config, UNetConfig)
        channels = self.config.block_out_channels[level]
        return SpatialSelfAttention(
            channels,
            head_dim=self.config.head_dim(channels),
            groups=self.config.mid_attention_groups if middle else self.config.norm_num_groups,
            eps=self.config.norm_eps,
            output_scale=output_scale,
        )

    def transformer(self, level: int) -> SpatialTransformer:
        """Attention among the positions of one resolution and to the prompt."""
        assert isinstance(self.config, TextUNetConfig)
        return SpatialTransformer(
            self.config.block_out_channels[level],
            heads=self.config.heads[level],
            context_dim=self.config.context_dims[level],
            depth=self.config.depths[level],
            groups=self.config.norm_num_groups,
            linear=self.config.use_linear_projection,
        )
