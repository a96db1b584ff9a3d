"""Latents as tokens: patches of 2×2, as Flux and Qwen-Image pack them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nelbo.formats.adapters.adapter import AdaptedNetwork

SIDE = 2


class PackedNetwork(AdaptedNetwork):
    """A network over tokens of 2×2 latents."""

    @classmethod
    def latent_channels(cls, config: Mapping[str, Any]) -> int:
        """C of the latents, of which a token has four."""
        return config["in_channels"] // SIDE**2


def pack(x: Tensor) -> Tensor:
    """(B, C, H, W) to a token for each patch, row by row, (B, H/2 · W/2, 4C)."""
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // SIDE, SIDE, width // SIDE, SIDE)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * SIDE * SIDE)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`, (B, C, H, W)."""
    batch, _, channels = tokens.shape
    x = tokens.view(batch, height // SIDE, width // SIDE, channels // SIDE**2, SIDE, SIDE)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, height, width)
