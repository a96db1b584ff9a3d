r"""The residual block, which is where the network learns what level it is at.

.. math::
    h &= \mathrm{conv}_1(a(\mathrm{norm}_1(x))) \\
    h &= \mathrm{norm}_2(h + W a(e)) \quad\text{or}\quad
         (1 + s)\,\mathrm{norm}_2(h) + b,\ (s, b) = W a(e) \\
    y &= (x' + \mathrm{conv}_2(a(h))) / \rho

with e the summed embedding of time and conditions, a the activation and x' the input, through a
1×1 convolution where the width changes. The first form is Ho et al. (2020), the second
("scale_shift") is Nichol & Dhariwal (2021), as is resampling inside the block.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nelbo.networks.normalization import Activation, silu


class ResnetBlock(nn.Module):
    """A residual block, optionally changing the resolution of both branches by `resample`.

    Args:
        in_channels: width of x.
        out_channels: width of y.
        embedding_dim: width of the embedding, or None for a block that has none.
        groups: groups of both normalisations.
        eps: epsilon of both normalisations.
        activation: a, which may overwrite its argument.
        dropout: probability of dropping a channel value before the second convolution.
        scale_shift: the embedding scales and shifts the second normalisation's output.
        output_scale: ρ.
        resample: applied to both branches, e.g. `average_pool`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        embedding_dim: int | None,
        groups: int = 32,
        eps: float = 1e-5,
        activation: Activation = silu,
        dropout: float = 0.0,
        scale_shift: bool = False,
        output_scale: float = 1.0,
        resample: Activation | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = (
            nn.Linear(embedding_dim, out_channels * (2 if scale_shift else 1))
            if embedding_dim is not None
            else None
        )
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = (
            nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        )
        self.activation = activation
        self.scale_shift = scale_shift
        self.output_scale = output_scale
        self.resample = resample

    def forward(
        self,
        x: Float[Tensor, "batch in_channels height width"],
        embedding: Float[Tensor, "batch embedding_dim"] | None = None,
    ) -> Float[Tensor, "batch out_channels new_height new_width"]:
        """Apply the block; `embedding` is a(e), computed once for all blocks."""
        h = self.activation(self.norm1(x))
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = self.conv1(h)
        h = self._normalise_with(h, embedding)
        h = self.conv2(self.dropout(self.activation(h)))
        h = h.add_(x if self.conv_shortcut is None else self.conv_shortcut(x))
        return h if self.output_scale == 1 else h / self.output_scale

    def _normalise_with(self, h: Tensor, embedding: Tensor | None) -> Tensor:
        """norm_2 and what the embedding does around it."""
        if self.time_emb_proj is None:
            return self.norm2(h)
        condition = self.time_emb_proj(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            return torch.addcmul(shift, self.norm2(h), 1 + scale)
        # In place: a convolution's backward pass does not need its output.
        return self.norm2(h.add_(condition))
