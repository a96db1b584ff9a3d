r"""Distributions of integers, made of the distributions of a model, to push and pop values under.

* `GridNormal`: a normal of a latent, on a grid whose step is a power of two. Bins are counted from
  the one around the mean, in a window that holds all that is likely; what is beyond it is coded as
  the window's end and the distance to it, so that every value can be pushed and the alphabet stays
  small (a coder of 24 bits keeps 2⁻²⁴ for each symbol of its alphabet).
* `PixelNormal`: a normal rounded to pixel levels, its first and last bin open to ∓∞.
* `Table`: a probability for each level.

Each is defined by integers (see `nelbo.coding.agreement`), from which all is computed in the same
way everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nelbo.coding.arithmetic import Floats, Integers
from nelbo.coding.stack import Stack, coder

# Standard deviations on each side of the mean: what is drawn, and what has symbols of its own.
_DRAWN, _PUSHED = 5.0, 10.0
_CHUNK = 16


class Coded(Protocol):
    """A distribution of n integers, independent of one another."""

    def push(self, stack: Stack, values: Integers) -> None:
        """Push n values, the stack growing by about −log₂ of their probability."""

    def pop(self, stack: Stack) -> Integers:
        """Pop n values."""


@dataclass(frozen=True)
class GridNormal:
    """A normal of integers k, the bins of a grid.

    Attributes:
        mean: in steps of the grid, (n,).
        stddev: likewise.
        drawn: whether values are drawn, and so within five standard deviations; else any value
            may come, and one that is ten away in two parts.
    """

    mean: Floats
    stddev: Floats
    drawn: bool

    def push(self, stack: Stack, values: Integers) -> None:
        """Push n values; those beyond the window in two parts."""
        centre, rest, half = self._window()
        offset = values - centre
        for i in self._beyond(offset, half)[::-1]:
            _push_natural(stack, int(abs(offset[i])) - half)
        stack.push(np.clip(offset, -half, half), _normal(-half, half), rest, self.stddev)

    def pop(self, stack: Stack) -> Integers:
        """Pop n values."""
        centre, rest, half = self._window()
        offset = stack.pop(len(centre), _normal(-half, half), rest, self.stddev)
        for i in self._beyond(offset, half):
            offset[i] += np.sign(offset[i]) * _pop_natural(stack)
        return centre + offset

    def _window(self) -> tuple[Integers, Floats, int]:
        """The bin around each mean, the mean from its middle, and half the width of the window."""
        centre = np.floor(self.mean + 0.5)
        half = int(np.ceil((_DRAWN if self.drawn else _PUSHED) * self.stddev.max())) + 1
        return centre.astype(np.int64), self.mean - centre, half

    def _beyond(self, offset: Integers, half: int) -> Integers:
        """Which values are at an end of the window, and so in two parts."""
        return np.zeros(0, np.int64) if self.drawn else (np.abs(offset) >= half).nonzero()[0]


@dataclass(frozen=True)
class PixelNormal:
    """A normal rounded to pixel levels, its first and last bin open to ∓∞.

    Attributes:
        mean: in pixel levels, (n,).
        stddev: likewise.
        levels: how many levels there are.
    """

    mean: Floats
    stddev: Floats
    levels: int

    def push(self, stack: Stack, values: Integers) -> None:
        """Push n levels."""
        stack.push(values, _normal(0, self.levels - 1), self.mean, self.stddev)

    def pop(self, stack: Stack) -> Integers:
        """Pop n levels."""
        return stack.pop(len(self.mean), _normal(0, self.levels - 1), self.mean, self.stddev)


@dataclass(frozen=True)
class Table:
    """A weight for each of the levels of each value, (n, levels)."""

    weights: NDArray[np.float64]

    def push(self, stack: Stack, values: Integers) -> None:
        """Push n levels."""
        stack.push(values, coder().model.Categorical(perfect=False), self.weights)

    def pop(self, stack: Stack) -> Integers:
        """Pop n levels."""
        return stack.pop(len(self.weights), coder().model.Categorical(perfect=False), self.weights)


def _normal(low: int, high: int) -> object:
    return coder().model.QuantizedGaussian(low, high)


def _push_natural(stack: Stack, number: int) -> None:
    """Push a number of any size: its bits in chunks, each with a bit for whether more follow."""
    chunks = []
    while True:
        chunks.append(number % 2**_CHUNK)
        number >>= _CHUNK
        if not number:
            break
    more = False
    for chunk in reversed(chunks):
        stack.push_bits(chunk, _CHUNK)
        stack.push_bits(int(more), 1)
        more = True


def _pop_natural(stack: Stack) -> int:
    number = shift = 0
    more = True
    while more:
        more = bool(stack.pop_bits(1))
        number |= stack.pop_bits(_CHUNK) << shift
        shift += _CHUNK
    return number
