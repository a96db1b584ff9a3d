"""Bisection against roots that are known, from either side."""

from __future__ import annotations

import torch

from nelbo.base.bisection import bisection


def test_each_element_is_where_its_condition_begins_to_hold():
    squares = torch.tensor([1e-12, 0.25, 2.0, 81.0], dtype=torch.float64)
    low, high = torch.zeros_like(squares), torch.full_like(squares, 10.0)
    roots = squares.sqrt()
    up = bisection(lambda x: x.square() > squares, low, high)
    down = bisection(lambda x: x.square() < squares, high, low)
    for found in (up, down):
        assert torch.allclose(found, roots, rtol=4e-16, atol=1e-18)
    ends = bisection(lambda x: x > 10.0, low, high), bisection(lambda x: x >= 0.0, low, high)
    assert (ends[0] == 10.0).all()
    assert (ends[1] < 1e-17).all()
