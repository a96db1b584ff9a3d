"""Where in images the bound is spent, as colours."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib import colormaps

# Of the pixels, on the scale of maps; the others have its brightest colour.
_SHOWN_SHARE = 0.99


def heat(
    maps: Float[torch.Tensor, "n height width"],
) -> tuple[UInt8[torch.Tensor, "n 3 height width"], float]:
    """Maps of nats as colours on one scale, and how many bits its brightest colour stands for.

    The scale ends where 99% of the pixels lie, as one pixel that costs very much would leave all
    others dark.
    """
    bits = maps.detach().cpu().double().nan_to_num(posinf=0.0) / math.log(2.0)
    highest = max(_high(bits.numpy()), 1e-12)
    colors = colormaps["viridis"]((bits / highest).clamp(0, 1).numpy(), bytes=True)
    return torch.from_numpy(colors[..., :3].copy()).permute(0, 3, 1, 2), highest


def _high(bits: np.ndarray) -> float:
    """Where the scale of maps ends: the quantile below which 99% of the pixels lie."""
    known = bits[np.isfinite(bits)]
    return float(np.quantile(known, _SHOWN_SHARE, method="higher")) if known.size else 1.0
