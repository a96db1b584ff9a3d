r"""The transformer between residual blocks, through which a prompt enters (Rombach et al. 2022).

The positions of a feature map become tokens z that go through blocks of

.. math::
    z &\leftarrow z + \mathrm{attention}(\mathrm{norm}(z)) \\
    z &\leftarrow z + \mathrm{attention}(\mathrm{norm}(z),\ \mathrm{prompt}) \\
    z &\leftarrow z + \mathrm{MLP}(\mathrm{norm}(z))

with a gated MLP, :math:`W_3\,(W_1 z \odot \mathrm{gelu}(W_2 z))` (Shazeer 2020).
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.networks.attention import Attention


class GatedLinear(nn.Module):
    """W_1 z ⊙ gelu(W_2 z), both matrices in one."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * hidden)

    def forward(self, z: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens hidden"]:
        """Apply the layer."""
        if z.device.type == "cpu":
            # Halves of the rows of one product would be slow to multiply there, and to join again
            # in the backward pass.
            weights, biases = self.proj.weight.chunk(2), self.proj.bias.chunk(2)
            value, gate = map(functools.partial(F.linear, z), weights, biases)
        else:
            value, gate = self.proj(z).chunk(2, dim=-1)
        gate = F.gelu(gate)
        return value * gate if torch.is_grad_enabled() else gate.mul_(value)


class FeedForward(nn.Module):
    """The gated MLP, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # The identity is where checkpoints count a dropout layer.
        self.net = nn.Sequential(GatedLinear(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, z: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Apply the layers."""
        return self.net(z)


class TransformerBlock(nn.Module):
    """Attention among the tokens, attention to the prompt, MLP; each normalised and residual."""

    def __init__(self, dim: int, *, heads: int, context_dim: int) -> None:
        super().__init__()
        shape = {"heads": heads, "head_dim": dim // heads}
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, bias=False, **shape)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, bias=False, context_dim=context_dim, **shape)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(
        self,
        z: Float[Tensor, "batch tokens dim"],
        context: Float[Tensor, "batch prompt_tokens context_dim"],
    ) -> Float[Tensor, "batch tokens dim"]:
        """Apply the block."""
        # In place where the sum is fresh: the projections' backward needs no output.
        z = self.attn1(self.norm1(z)).add_(z)
        z = self.attn2(self.norm2(z), context).add_(z)
        return self.ff(self.norm3(z)).add_(z)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map, normalised and residual.

    Args:
        channels: width of the feature map.
        heads: attention heads.
        context_dim: width of the prompt's tokens.
        depth: number of blocks.
        groups: groups of the normalisation.
        linear: whether the two projections are stored as linear layers or as 1×1 convolutions;
            the function is the same.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        context_dim: int,
        depth: int = 1,
        groups: int = 32,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = _projection(channels, linear)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads=heads, context_dim=context_dim) for _ in range(depth)
        )
        self.proj_out = _projection(channels, linear)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        context: Float[Tensor, "batch prompt_tokens context_dim"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Apply the layer."""
        z = self.norm(x).flatten(2).transpose(1, 2).contiguous()
        z = _project(self.proj_in, z)
        for block in self.transformer_blocks:
            z = block(z, context)
        z = _project(self.proj_out, z)
        # x first: the sum keeps the memory layout of the feature map, not that of the tokens.
        return x + z.transpose(1, 2).unflatten(2, x.shape[2:])


def _projection(channels: int, linear: bool) -> nn.Linear | nn.Conv2d:
    return nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)


def _project(layer: nn.Module, z: Tensor) -> Tensor:
    """A linear layer or 1×1 convolution, applied to tokens."""
    return F.linear(z, layer.weight.flatten(1), layer.bias)  # type: ignore[operator, arg-type]
