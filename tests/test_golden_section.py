"""Golden section against the interval that it must leave, at both ends and in between."""

from __future__ import annotations

import math

import pytest

from nelbo.base.golden_section import golden_section

GOLDEN = 2 / (1 + math.sqrt(5))


@pytest.mark.parametrize("least", [-2.0, -1.9, 0.3, 2.5, 4.9, 5.0])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 20])
def test_each_call_shrinks_the_interval_by_the_golden_ratio(least, steps):
    calls: list[float] = []

    def function(x: float) -> float:
        calls.append(x)
        return (x - least) ** 2

    found = golden_section(function, -2.0, 5.0, steps=steps)
    assert abs(found - least) <= 7 * GOLDEN**steps / 2 + 1e-12
    assert len(calls) == steps + 2
    # An interval that shrank further would not be sure to hold the minimum.
    if least in (-2.0, 5.0):
        assert abs(found - least) == pytest.approx(7 * GOLDEN**steps / 2)
    assert calls[:2] == pytest.approx([5 - 7 * GOLDEN, -2 + 7 * GOLDEN])
    assert all(-2 <= x <= 5 for x in calls)
