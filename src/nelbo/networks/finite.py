"""Errors for weights and predictions that are not finite, as those of a run that diverged.

Results computed from them may look valid: clipped, they are a grey or saturated picture. So weights
are checked when they are read and written, and predictions when they are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nelbo.base.errors import NotFiniteError

# A larger weight has no finite square in float32, which every normalisation takes.
LARGEST_WEIGHT = math.sqrt(torch.finfo(torch.float32).max)
_SHOWN = 3


def check_finite_weights(weights: Mapping[str, Tensor], where: object) -> None:
    """Raise `NotFiniteError` for weights that are not finite, or too large to compute with.

    Args:
        weights: by name.
        where: the file or model of the weights, for the message.
    """
    bad = [name for name, weight in weights.items() if not _is_usable(weight)]
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        named = ", ".join(_counted(name, weights[name]) for name in bad[:_SHOWN])
        raise NotFiniteError(
            f"{where} holds weights that are not finite or beyond {LARGEST_WEIGHT:.2g}, in "
            f"{len(bad)} of {len(weights)} tensors: {named}{more}. Its training diverged, or the "
            "file is damaged: use an earlier checkpoint, or train again at a lower learning rate"
        )


def check_finite(output: Tensor, what: str, time: Tensor | None = None) -> None:
    """Raise `NotFiniteError` where an output holds values that are not finite.

    Args:
        output: of a network, the batch first.
        what: name of the output, for the message.
        time: network time of each example, if any.
    """
    finite = output.isfinite()
    if finite.all():
        return
    first = int((~finite.flatten(1).all(1)).nonzero()[0])
    at = "" if time is None else f" at its time {float(time[first]):g}"
    raise NotFiniteError(
        f"{what}{at} is not finite: {int((~finite).sum()):,} of {finite.numel():,} values are nan "
        "or infinite. Its weights have diverged, or it overflows in its precision"
    )


def _is_usable(weight: Tensor) -> bool:
    if not weight.is_floating_point() or weight.numel() == 0 or weight.is_meta:
        return True
    low, high = torch.aminmax(weight.detach())  # nan where any value is
    return bool(low > -LARGEST_WEIGHT) and bool(high < LARGEST_WEIGHT)


def _counted(name: str, weight: Tensor) -> str:
    flat = weight.detach().flatten()
    bad = flat[~(flat.abs() < LARGEST_WEIGHT)]
    return f"{name} ({len(bad):,} of {len(flat):,} values, such as {float(bad[0]):g})"
