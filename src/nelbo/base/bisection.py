"""Where a condition begins to hold between two ends, by bisection."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Of the interval, to the last bit of float64.
_HALVINGS = 64


def bisection(holds: Callable[[Tensor], Tensor], before: Tensor, after: Tensor) -> Tensor:
    """The place of each element where its condition begins to hold, as far as float64 tells.

    Args:
        holds: of places, whether the condition of each holds; true from some place on.
        before: where none holds, float64.
        after: where all hold, of the same shape; above `before`, or below.
    """
    for _ in range(_HALVINGS):
        middle = (before + after) / 2
        found = holds(middle)
        before, after = torch.where(found, before, middle), torch.where(found, middle, after)
    return (before + after) / 2
