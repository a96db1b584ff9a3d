"""Per-level coefficients, computed once in float64 and read at the level of each example."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nelbo.chain.mhvae import Level
from nelbo.diffusion.schedule import Levels


class LevelLookup:
    """Reads named tables over levels at one level, or at one level an example.

    A table is cast and moved once for every dtype and device that it is read in, so that reading
    it waits for no transfer.
    """

    def __init__(self, tables: Mapping[str, Levels]) -> None:
        self._tables = dict(tables)
        self._moved: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def __call__(self, name: str, t: Level, like: Tensor) -> Tensor:
        """The value at t shaped to broadcast against `like`: a scalar, or (B, 1, 1, 1)."""
        # Half precision states still get float32 coefficients.
        dtype = torch.promote_types(like.dtype, torch.float32)
        key = name, dtype, like.device
        table = self._moved.get(key)
        if table is None:
            table = self._moved[key] = self._tables[name].to(dtype).to(like.device)
        value = table[t]
        return value if isinstance(t, int) else value.view(-1, *[1] * (like.ndim - 1))
