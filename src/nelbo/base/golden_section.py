"""The least value of a function of one variable, by golden section (Kiefer 1953)."""

from __future__ import annotations

import math
from collections.abc import Callable

# What each step leaves of the interval.
RATIO = (math.sqrt(5) - 1) / 2


def golden_section(
    function: Callable[[float], float], low: float, high: float, *, steps: int
) -> float:
    """The minimum of a function that has one minimum between `low` and `high`.

    Args:
        function: called twice, and once a step.
        low: lower end of the interval.
        high: upper end.
        steps: how often to shrink the interval, by 0.618 each time; its middle is the answer.
    """
    left, right = high - RATIO * (high - low), low + RATIO * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(steps):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - RATIO * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + RATIO * (high - low)
            at_right = function(right)
    return (low + high) / 2
