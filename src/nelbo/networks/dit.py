r"""Diffusion transformers (Peebles & Xie 2023), of a class or of a prompt.

The patches of :math:`x_t` become tokens z that go through blocks of

.. math::
    z &\leftarrow z + g_1 \odot \mathrm{attention}((1 + s_1) \odot \mathrm{norm}(z) + b_1) \\
    z &\leftarrow z + g_2 \odot \mathrm{MLP}((1 + s_2) \odot \mathrm{norm}(z) + b_2)

whose shifts b, scales s and gates g are linear in the embedded time and class ("adaLN-Zero"). With
a prompt, z also attends to it between the two, and the six vectors are one linear map of the time
for all blocks plus a table for each ("adaLN-single", Chen et al. 2024, section 2.3). Names of
weights and config fields are those of diffusers' `DiTTransformer2DModel` and
`PixArtTransformer2DModel`; docs/decisions/0026-text-for-a-transformer.md has why the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.networks.denoiser import Denoiser
from nelbo.networks.dit_blocks import (
    PLAIN_EPS,
    TIME,
    CaptionProjection,
    DiTBlock,
    TextBlock,
    TimeModulation,
    modulate,
    start,
    zero,
)
from nelbo.networks.dit_config import DiTConfig, TextDiTConfig, TransformerConfig
from nelbo.networks.embeddings import Sinusoidal, checked_label
from nelbo.networks.patches import PatchEmbed, unpatch

_TABLE = "norm1.emb.class_embedder.embedding_table.weight"


class Transformer(Denoiser):
    """What both kinds share: patches, the time, and the size of an input.

    Args:
        config: that of the class.
        **fields: instead of a config, its fields.
    """

    folder = "transformer"
    config: TransformerConfig

    def __init__(self, config: TransformerConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        c = self.config
        self.pos_embed = PatchEmbed(
            c.in_channels,
            c.width,
            patch=c.patch_size,
            base=c.sample_size // c.patch_size,
            scale=c.position_scale,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.pos_embed.proj.weight.dtype

    def _tokens(self, x_t: Tensor) -> Tensor:
        patch, channels = self.config.patch_size, self.config.in_channels
        if x_t.ndim != 4 or x_t.shape[1] != channels:
            raise NelboError(
                f"x_t has shape {tuple(x_t.shape)}, expected (batch, {channels}, height, width)"
            )
        height, width = x_t.shape[2:]
        if height % patch or width % patch:
            raise NelboError(
                f"x_t is {height}×{width}, but a transformer of patches of {patch} pixels needs "
                f"height and width divisible by {patch}: resize or pad it"
            )
        return self.pos_embed(x_t.to(self.dtype))

    def _finish(
        self, z: Tensor, x_t: Tensor, shift: Tensor, scale: Tensor, out: nn.Module
    ) -> Tensor:
        """The output of the last tokens: normalised, modulated, projected, and put together."""
        z = modulate(F.layer_norm(z, z.shape[-1:], eps=PLAIN_EPS), shift, scale)
        return unpatch(out(z), (x_t.shape[2], x_t.shape[3]), self.config.patch_size)


class DiT(Transformer):
    """The transformer of a class, or of nothing, called as `(x_t, network_time, condition)`.

    A fresh network starts as Peebles & Xie (2023) have it: every gate and the output are zero, so
    that each block begins as the identity.

    Args:
        config: a `DiTConfig`.
        **fields: instead of a config, its fields.
    """

    config_classes = (DiTConfig,)
    config: DiTConfig

    def __init__(self, config: DiTConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        c = self.config
        self.time_proj = Sinusoidal(TIME, freq_shift=1)
        blocks = [DiTBlock(c) for _ in range(c.num_layers)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out_1 = nn.Linear(c.width, 2 * c.width)
        self.proj_out_2 = nn.Linear(c.width, c.patch_size**2 * c.out_channels)
        start(self)
        zero(self.proj_out_1, self.proj_out_2, *(block.norm1.linear for block in blocks))

    def forward(
        self,
        x_t: Float[Tensor, "batch in_channels height width"],
        network_time: Num[Tensor, " batch"] | Num[Tensor, ""],
        condition: Condition | None = None,
    ) -> Float[Tensor, "batch out_channels height width"]:
        """The network's prediction at x_t.

        Args:
            x_t: states; height and width must be multiples of the patch.
            network_time: network time of each example, integer or fractional, (B,).
            condition: its label; −1, or no condition, is the unconditional model.
        """
        z = self._tokens(x_t)
        time = self.time_proj(network_time.to(x_t.device).expand(len(x_t))).to(self.dtype)
        rows = self._rows(condition, x_t)
        blocks = cast(Sequence[DiTBlock], self.transformer_blocks)
        embedded = [block.norm1.emb(time, rows) for block in blocks]
        for block, each in zip(blocks, embedded, strict=True):
            z = block(z, each)
        shift, scale = self.proj_out_1(F.silu(embedded[0]))[:, None].chunk(2, dim=2)
        return self._finish(z, x_t, shift, scale, self.proj_out_2)

    def with_classes(self, before: Sequence[str], after: Sequence[str]) -> DiT:
        """The network with an embedding of other classes; see `Denoiser.with_classes`.

        A class of the same name keeps its embedding. A new one begins as that of no label.
        """
        fitting = DiT(replace(self.config, num_embeds_ada_norm=len(after))).to(self.dtype)
        weights = self.state_dict()
        for name in (name for name in weights if name.endswith(_TABLE)):
            old, names = weights[name], list(before)
            rows = [names.index(kept) if kept in names else len(old) - 1 for kept in after]
            weights[name] = old[[*rows, len(old) - 1]]
        fitting.load_state_dict(weights)
        return fitting.train(self.training)

    def _rows(self, condition: Condition | None, x_t: Tensor) -> Tensor:
        """The row of each example in the tables of classes."""
        check_condition(condition)
        classes = self.config.num_embeds_ada_norm
        if condition is not None and condition.text is not None:
            raise NelboError("text was given to a network without attention to a prompt")
        label = None if condition is None else condition.label
        if label is None:
            return torch.full((len(x_t),), classes, device=x_t.device)
        if not classes:
            raise NelboError(
                "a label was given to a network without classes (num_embeds_ada_norm=0): pass no "
                "label, or build the network with num_embeds_ada_norm"
            )
        label = checked_label(label, classes, "num_embeds_ada_norm")
        return label.where(label >= 0, classes)


class TextDiT(Transformer):
    """The transformer of a prompt, called as `(x_t, network_time, condition)`.

    A fresh network starts as a `DiT` does, and attends to nothing of the prompt.

    Args:
        config: a `TextDiTConfig`.
        **fields: instead of a config, its fields.
    """

    config_classes = (TextDiTConfig,)
    config: TextDiTConfig

    def __init__(self, config: TextDiTConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        c = self.config
        blocks = [TextBlock(c) for _ in range(c.num_layers)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.scale_shift_table = nn.Parameter(torch.zeros(2, c.width))
        self.proj_out = nn.Linear(c.width, c.patch_size**2 * c.out_channels)
        self.adaln_single = TimeModulation(c.width)
        self.caption_projection = (
            None if c.caption_channels is None else CaptionProjection(c.caption_channels, c.width)
        )
        start(self)
        attended = (block.attn2.to_out[0] for block in blocks)
        zero(self.proj_out, self.adaln_single.linear, *attended)

    def forward(
        self,
        x_t: Float[Tensor, "batch in_channels height width"],
        network_time: Num[Tensor, " batch"] | Num[Tensor, ""],
        condition: Condition | None = None,
    ) -> Float[Tensor, "batch out_channels height width"]:
        """The network's prediction at x_t.

        Args:
            x_t: states; height and width must be multiples of the patch.
            network_time: network time of each example, integer or fractional, (B,).
            condition: with the embedded prompt, (B, N, D).
        """
        z, context = self._tokens(x_t), self._context(condition)
        vectors, time = self.adaln_single(network_time.to(x_t.device).expand(len(x_t)))
        for block in self.transformer_blocks:
            z = block(z, vectors, context)
        shift, scale = (self.scale_shift_table + time[:, None]).chunk(2, dim=1)
        return self._finish(z, x_t, shift, scale, self.proj_out)

    def _context(self, condition: Condition | None) -> Tensor:
        """The tokens of the prompt, as wide as those of the network where they are projected."""
        check_condition(condition)
        text = None if condition is None else condition.text
        if text is None or text.ndim != 3 or text.shape[2] != self.config.text_width:
            found = "nothing" if text is None else f"condition.text of shape {tuple(text.shape)}"
            raise NelboError(
                f"this network attends to a prompt and got {found}: pass Condition(text=...) of "
                f"shape (batch, tokens, {self.config.text_width})"
            )
        text = text.to(self.dtype)
        return text if self.caption_projection is None else self.caption_projection(text)
