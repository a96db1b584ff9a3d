"""Batches of examples, as the formulas of a chain take them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nelbo.base.arguments import described
from nelbo.base.errors import NelboError


def check_examples(**given: Any) -> None:
    """Raise `NelboError` unless each is a tensor of real numbers, (B, ...), all of one shape."""
    first = None
    for name, x in given.items():
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
            raise NelboError(
                f"{name} is {described(x)}, expected a tensor (B, ...) of floating-point numbers; "
                "model.data.to_network makes one of pixel levels"
            )
        if first is not None and x.shape != first[1].shape:
            shapes = f"{tuple(x.shape)} and {first[0]} has {tuple(first[1].shape)}"
            raise NelboError(f"{name} has shape {shapes}, expected the same")
        first = first or (name, x)
