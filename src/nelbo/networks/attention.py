r"""Attention: every position reads from every other.

.. math:: \mathrm{softmax}\!\left(Q K^\top / \sqrt{d}\right) V, \quad
    Q = W_q x,\ K = W_k y,\ V = W_v y

in heads of width d (Vaswani et al. 2017), with y = x for self-attention.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention from tokens to tokens, without normalisation or residual.

    Args:
        dim: width of the tokens that read, and of the output.
        heads: number of heads.
        head_dim: width d of each.
        context_dim: width of the tokens that are read, `dim` if None.
        bias: whether the three input projections have a bias (the output one always does).
        dropout: probability of dropping an output value.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        head_dim: int,
        context_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.to_q = nn.Linear(dim, inner, bias=bias)
        self.to_k = nn.Linear(context_dim or dim, inner, bias=bias)
        self.to_v = nn.Linear(context_dim or dim, inner, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(inner, dim), nn.Dropout(dropout)])

    def attend(
        self,
        x: Float[Tensor, "batch tokens dim"],
        context: Float[Tensor, "batch context_tokens context_dim"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Tokens x read from the context, or from each other if there is none."""
        source = x if context is None else context
        q, k, v = (
            projected.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projected in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        found = read(q, k, v).transpose(1, 2).flatten(2)
        project, dropout = self.to_out
        return dropout(project(found))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`attend`."""
        return self.attend(x, context)


class SpatialSelfAttention(Attention):
    """Self-attention over the positions of a feature map, normalised and residual (Ho et al. 2020).

    Args:
        channels: width of the feature map.
        head_dim: width of a head; there are `channels // head_dim` of them.
        groups: groups of the normalisation, or None to have none.
        eps: its epsilon.
        output_scale: the sum of input and read-out is divided by this.
    """

    def __init__(
        self,
        channels: int,
        *,
        head_dim: int,
        groups: int | None,
        eps: float,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__(channels, heads=channels // head_dim, head_dim=head_dim)
        self.group_norm = None if groups is None else nn.GroupNorm(groups, channels, eps=eps)
        self.output_scale = output_scale

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        context: Tensor | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Apply the layer; the context (a prompt) is for other kinds of attention."""
        h = x if self.group_norm is None else self.group_norm(x)
        # One copy to rows of tokens here, or each of the three projections makes its own.
        h = self.attend(h.flatten(2).transpose(1, 2).contiguous())
        # x first: the sum keeps the memory layout of the feature map, not that of the tokens.
        h = x + h.transpose(1, 2).unflatten(2, x.shape[2:])
        return h if self.output_scale == 1 else h / self.output_scale


def _by_products(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether attention is two matrix products rather than torch's own kernel: in 16 bits on a CPU
    the gradient of that kernel takes several times as long."""
    halved = dtype in (torch.bfloat16, torch.float16)
    return halved and device.type == "cpu" and torch.is_grad_enabled()


def read(q: Tensor, k: Tensor, v: Tensor, sees: Tensor | None = None) -> Tensor:
    """softmax(Q Kᵀ/√d) V, in heads, (batch, heads, tokens, d).

    Args:
        q: what is asked, Q.
        k: what is compared with it, K.
        v: what is read, V.
        sees: whether each token of Q sees each of K; None for all.
    """
    if _by_products(q.dtype, q.device):
        logits = q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)
        if sees is not None:
            logits = logits.masked_fill(~sees, -math.inf)
        return logits.softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=sees)
