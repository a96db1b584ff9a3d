r"""Functions of which every machine computes the same bits.

IEEE 754 rounds +, −, ×, ÷ and √ in one way, while exp, log and erf differ in the last bits from one
library to the next. A coder's probabilities must be the same to the bit, so that what is computed
from a few integers is computed here with the five operations alone, value by value in NumPy, which
fuses none of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Steps of a logarithm to a factor of e.
LOG_STEPS = 64
# exp of at most 1 in size by its series, and then squared this often.
_SQUARINGS = 8
_TERMS = 20


def exp(x: Floats) -> Floats:
    """exp(x), for |x| ≤ 256, to about thirteen digits."""
    small = x / 2.0**_SQUARINGS
    total = term = np.ones_like(small)
    for n in range(1, _TERMS):
        term = term * small / n
        total = total + term
    for _ in range(_SQUARINGS):
        total = total * total
    return total


def scale_of(step: Integers) -> Floats:
    """The scale exp(step / 64) that each integer stands for, computed once for those in range."""
    least = step.min()
    table = exp(np.arange(least, step.max() + 1) / LOG_STEPS)
    return table[step - least]
