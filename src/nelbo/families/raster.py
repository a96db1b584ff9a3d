"""Images as sequences: values in raster order, the channels of a pixel one after the other; or
rows."""

from __future__ import annotations

from torch import Tensor


def to_raster(x: Tensor) -> Tensor:
    """Every value in raster order: (B, C, H, W) to (B, H·W·C)."""
    return x.permute(0, 2, 3, 1).flatten(1)


def from_raster(sequence: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Images of `shape` (C, H, W) from their values in raster order."""
    channels, height, width = shape
    return sequence.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)


def to_rows(x: Tensor) -> Tensor:
    """Each row as one observation: (B, C, H, W) to (B, H, W·C)."""
    return x.permute(0, 2, 3, 1).flatten(2)


def from_rows(rows: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Images of `shape` (C, H, W) from their rows."""
    return from_raster(rows.flatten(1), shape)
