"""The readings of the bound of held-out images during a run, and how it changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from nelbo.training.trainer import Step

# Of the run so far: a reading is compared with the last one of at most this share of it.
_EARLIER = 0.75


@dataclass(frozen=True)
class _Reading:
    step: int
    fraction: float
    bits: Tensor


class Readings:
    """The readings of a run so far, each of which the next ones are compared with."""

    def __init__(self) -> None:
        self._read: list[_Reading] = []

    def change(self, step: Step, bits: Tensor) -> dict[str, float]:
        """Take a reading in, and compare it with one of a quarter of the run before.

        All are of the same images, levels and noise, so that the error is that of their difference.

        Args:
            step: when it was read.
            bits: bits per dimension of each image, (n,), or their mean, (1,), without an error.

        Returns:
            The step `since` when, the `change` in bits/dim, and `change_error`, its standard error;
            empty for the first reading.
        """
        # Steps may be taken again, after going back to a checkpoint.
        before = [each for each in self._read if each.step < step.step]
        self._read = [*before, _Reading(step.step, step.fraction, bits.double())]
        if not before:
            return {}
        early = [each for each in before if each.fraction <= _EARLIER * step.fraction]
        since = early[-1] if early else before[0]
        change = bits.double() - since.bits
        found = {"since": since.step, "change": float(change.mean())}
        if len(change) > 1:
            found["change_error"] = float(change.std() / math.sqrt(len(change)))
        return found
