r"""Distributions of integers, made of the distributions of a model, to push and pop values under.

* `GridNormal`: a normal of a latent, on a grid whose step is a power of two. Bins are counted from
  the one around the mean, in a window that holds all that is likely; what is beyond it is coded as
  the window's end and the distance to it, so that every value can be pushed and the alphabet stays
  small (a coder of 24 bits keeps 2⁻²⁴ for each symbol of its alphabet).
* `DrawnNormal`: the same where values are drawn, and so from a window alone.
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
    """

    mean: Floats
    stddev: Floats

    def push(self, stack: Stack, values: Integers) -> None:
        """Push n values; those beyond the window in two parts."""
        centre, rest, half = _window(self, _PUSHED)
        offset = values - centre
        for i in (np.abs(offset) >= half).nonzero()[0][::-1]:
            _push_natural(stack, int(abs(offset[i])) - half)
        stack.push(np.clip(offset, -half, half), _normal(-half, half), rest, self.stddev)

    def pop(self, stack: Stack) -> Integers:
        """Pop n values."""
        centre, rest, half = _window(self, _PUSHED)
        offset = stack.pop(len(centre), _normal(-half, half), rest, self.stddev)
        for i in (np.abs(offset) >= half).nonzero()[0]:
            offset[i] += np.sign(offset[i]) * _pop_natural(stack)
        return centre + offset


@dataclass(frozen=True)
class DrawnNormal:
    """A normal of integers k that are drawn: popped off random bits, and pushed again.

    Attributes:
        mean: in steps of the grid, (n,).
        stddev: likewise.
        key: of the mask; another for each draw of a stack.
    """

    mean: Floats
    stddev: Floats
    key: int

    def push(self, stack: Stack, values: Integers) -> None:
        """Push n values that were popped."""
        centre, rest, half = _window(self, _DRAWN)
        with stack.masked(self.key, 0):
            stack.push(values - centre, _normal(-half, half), rest, self.stddev)

    def pop(self, stack: Stack) -> Integers:
        """Draw n values."""
        centre, rest, half = _window(self, _DRAWN)
        with stack.masked(self.key, len(centre)):
            return centre + stack.pop(len(centre), _normal(-half, half), rest, self.stddev)


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


def _window(normal: GridNormal | DrawnNormal, width: float) -> tuple[Integers, Floats, int]:
    """The bin around each mean, the mean from its middle, and half the width of the window."""
    centre = np.floor(normal.mean + 0.5)
    half = int(np.ceil(width * normal.stddev.max())) + 1
    return centre.astype(np.int64), normal.mean - centre, half


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
