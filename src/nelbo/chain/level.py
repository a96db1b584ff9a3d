"""A level of a chain, the same for a batch or one for each example."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nelbo.base.arguments import described, is_whole
from nelbo.base.errors import NelboError

Level = int | Int[Tensor, " batch"]


def check_level(t: Any, T: int, x: Tensor, least: int = 1) -> None:
    """Raise `NelboError` unless `t` is a level in `least`..T, or one for each example of `x`.

    Values that lie on another device are not looked at, which would wait for it.
    """
    expected = f"expected a level in {least}..{T}, or an int64 tensor of one for each example"
    if not isinstance(t, Tensor):
        if not is_whole(t) or not least <= t <= T:
            raise NelboError(f"t is {described(t)}, {expected}")
        return
    whole = not (t.is_floating_point() or t.dtype == torch.bool)
    if not whole or (t.ndim and t.shape not in ((1,), (len(x),))):
        raise NelboError(f"t is {described(t)}, {expected}, ({len(x)},)")
    if t.device.type == "cpu" and t.numel():
        low, high = t.aminmax()
        if low < least or high > T:
            raise NelboError(f"t has levels {int(low)}..{int(high)}, {expected}")
