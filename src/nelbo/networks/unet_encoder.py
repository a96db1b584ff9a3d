r"""The encoder of a UNet, which a ControlNet copies.

The network time t and global conditions enter every residual block as one vector

.. math:: e = \mathrm{MLP}(\mathrm{embed}(t)) + \mathrm{embed}(\mathrm{label})
              + \mathrm{MLP}([\mathrm{pooled\ text}, \mathrm{embed}(\mathrm{size})])

(Dhariwal & Nichol 2021; the last term is that of SDXL, Podell et al. 2023). A prompt's tokens are
read by the transformers of the stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.networks.attention import SpatialSelfAttention
from nelbo.networks.embeddings import (
    EmbeddingMLP,
    GaussianFourier,
    LearnedTime,
    Sinusoidal,
    SizeEmbedding,
    checked_label,
)
from nelbo.networks.normalization import ACTIVATIONS
from nelbo.networks.pretrained import Pretrained
from nelbo.networks.resnet import ResnetBlock
from nelbo.networks.text_unet_config import TextUNetConfig
from nelbo.networks.transformer import SpatialTransformer
from nelbo.networks.unet_config import UNetConfig
from nelbo.networks.unet_stages import StageFactory

UNetLayout = UNetConfig | TextUNetConfig


class Residuals(NamedTuple):
    """Residuals that are added to the features of a UNet's encoder.

    Attributes:
        skips: one for each skip connection, in the order in which they arise.
        middle: for the output of the middle.
    """

    skips: tuple[Tensor, ...]
    middle: Tensor

    def scaled(self, weight: float | Tensor, shares: Sequence[float]) -> Residuals:
        """Each times a weight for all, or one an example, and a share of its own."""
        *skips, middle = (
            residual * (weight * share)
            for residual, share in zip((*self.skips, self.middle), shares, strict=True)
        )
        return Residuals(tuple(skips), middle)

    def plus(self, other: Residuals) -> Residuals:
        """The sums of these and others of the same features."""
        skips = zip(self.skips, other.skips, strict=True)
        return Residuals(tuple(one + two for one, two in skips), self.middle + other.middle)


class UNetEncoder(Pretrained):
    """The embeddings, the way down and the middle; names of weights as in diffusers."""

    def _build_encoder(self, layout: UNetLayout) -> list[int]:
        """Make the layers; the widths of the skip connections, in the order they arise."""
        widths = layout.block_out_channels
        self.layout = layout
        self.conv_in = nn.Conv2d(layout.in_channels, widths[0], 3, padding=1)
        self.time_proj, time_dim = time_embedding(layout)
        self.time_embedding = EmbeddingMLP(
            time_dim, layout.embedding_dim, ACTIVATIONS[layout.embedding_activation]
        )
        self.class_embedding = class_embedding(layout, time_dim)
        self.add_embedding = size_embedding(layout)
        self.embedding_activation = ACTIVATIONS[layout.act_fn]

        stages = StageFactory(layout)
        skip_widths = [widths[0]]
        channels = widths[0]
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            stage = stages.down_stage(level, channels)
            self.down_blocks.append(stage)
            channels = width
            skip_widths += [width] * (len(stage.resnets) + len(stage.downsamplers))
        self.mid_block = stages.mid_stage(channels)
        return skip_widths

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.conv_in.weight.dtype

    def embed(
        self,
        network_time: Num[Tensor, " batch"] | Num[Tensor, ""],
        condition: Condition | None = None,
    ) -> Float[Tensor, "batch embedding_dim"]:
        """a(e): the summed embedding of time and conditions, activated, for all residual blocks."""
        check_condition(condition)
        embedding = self.time_embedding(self.time_proj(network_time).to(self.dtype))
        label = None if condition is None else condition.label
        if label is not None:
            embedding = embedding + self._embed_label(label)
        if self.add_embedding is not None:
            given = condition or Condition()
            if given.pooled_text is None or given.size is None:
                raise NelboError(
                    "this network is conditioned on the pooled prompt and the picture's size "
                    "(addition_embed_type='text_time'): pass Condition(pooled_text=..., size=...)"
                )
            pooled_text = given.pooled_text.to(self.dtype)
            embedding = embedding + self.add_embedding(pooled_text, given.size)
        return self.embedding_activation(embedding)

    def context(self, condition: Condition | None) -> Tensor | None:
        """The prompt's tokens, in the network's precision."""
        text = None if condition is None else condition.text
        if text is None:
            if self.layout.takes_text:
                raise NelboError(
                    "this network attends to a prompt: pass Condition(text=...) of shape "
                    f"(batch, tokens, {self._text_width()})"
                )
            return None
        if not self.layout.takes_text:
            raise NelboError("text was given to a network without attention to a prompt")
        if text.ndim != 3 or text.shape[2] != self._text_width():
            raise NelboError(
                f"condition.text has shape {tuple(text.shape)}, expected (batch, tokens, "
                f"{self._text_width()}), the width cross_attention_dim of this network"
            )
        return text.to(self.dtype)

    def descend(
        self, h: Tensor, embedding: Tensor, context: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """From the output of `conv_in` to the skip connections and the output of the middle."""
        skips = [h]
        for stage in self.down_blocks:
            h, left_behind = stage(h, embedding, context)
            skips += left_behind
        if self.mid_block is not None:
            h = self.mid_block(h, embedding, context)
        return skips, h

    def _embed_label(self, label: Tensor) -> Tensor:
        table = self.class_embedding
        if table is None:
            raise NelboError(
                "a label was given to a network without classes (num_class_embeds=None): "
                "pass no label, or build the network with num_class_embeds"
            )
        if self.layout.class_embed_type in VECTOR_LABELS:
            return table(label.to(self.dtype))
        if isinstance(table, nn.Embedding):
            label = checked_label(label, table.num_embeddings, "num_class_embeds")
            embedded = table(label.clamp(min=0))
        else:
            embedded = table(self.time_proj(label).to(self.dtype))
        return embedded.masked_fill((label < 0)[:, None], 0)

    def _text_width(self) -> int:
        assert isinstance(self.layout, TextUNetConfig)
        return self.layout.context_dims[0]

    def _check_input(self, x_t: Tensor) -> None:
        layout = self.layout
        if x_t.ndim != 4 or x_t.shape[1] != layout.in_channels:
            raise NelboError(
                f"x_t has shape {tuple(x_t.shape)}, expected (batch, {layout.in_channels}, "
                "height, width)"
            )
        divisor = layout.size_divisor
        height, width = x_t.shape[2:]
        if height % divisor or width % divisor:
            raise NelboError(
                f"x_t is {height}×{width}, but a UNet of {len(layout.block_out_channels)} "
                f"resolutions needs height and width divisible by {divisor}: resize or pad it"
            )


# Kinds of class embedding whose label is not an index but a vector (B, D).
VECTOR_LABELS = ("identity", "projection", "simple_projection")


def time_embedding(layout: UNetLayout) -> tuple[nn.Module, int]:
    """The embedding of the level, and its width."""
    width = layout.block_out_channels[0]
    if layout.time_embedding_type == "fourier":
        return GaussianFourier(width), 2 * width
    if layout.time_embedding_type == "learned":
        assert isinstance(layout, UNetConfig)
        assert layout.num_train_timesteps is not None
        return LearnedTime(layout.num_train_timesteps, width), width
    sinusoidal = Sinusoidal(width, freq_shift=layout.freq_shift, cos_first=layout.flip_sin_to_cos)
    return sinusoidal, width


def class_embedding(layout: UNetLayout, time_dim: int) -> nn.Module | None:
    """The embedding of the label, or None for a network without classes."""
    if layout.class_embed_type == "timestep":
        activation = ACTIVATIONS[layout.embedding_activation]
        return EmbeddingMLP(time_dim, layout.embedding_dim, activation)
    if layout.class_embed_type == "identity":
        return nn.Identity()
    if isinstance(layout, TextUNetConfig) and layout.class_embed_type is not None:
        width = layout.projection_class_embeddings_input_dim
        assert width is not None
        if layout.class_embed_type == "projection":
            return EmbeddingMLP(width, layout.embedding_dim)
        return nn.Linear(width, layout.embedding_dim)
    if layout.num_class_embeds is not None:
        return nn.Embedding(layout.num_class_embeds, layout.embedding_dim)
    return None


def size_embedding(layout: UNetLayout) -> SizeEmbedding | None:
    """SDXL's embedding of the pooled prompt and the picture's size, if the network has it."""
    if not isinstance(layout, TextUNetConfig) or layout.addition_embed_type is None:
        return None
    width = layout.addition_time_embed_dim
    features = layout.projection_class_embeddings_input_dim
    assert width is not None
    assert features is not None
    each = Sinusoidal(width, freq_shift=layout.freq_shift, cos_first=layout.flip_sin_to_cos)
    return SizeEmbedding(features, layout.embedding_dim, each)


def zero(layer: nn.Module) -> None:
    """Start a layer at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def zero_residual_branches(network: nn.Module) -> None:
    """Start every residual branch at zero, so that each block begins as the identity."""
    for module in network.modules():
        if isinstance(module, ResnetBlock):
            zero(module.conv2)
        elif isinstance(module, SpatialSelfAttention):
            zero(module.to_out[0])
        elif isinstance(module, SpatialTransformer):
            zero(module.proj_out)
