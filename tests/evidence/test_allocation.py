"""How draws are shared out: against every division of the calls, by brute force."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import Bound
from nelbo.evidence.allocation import MARGIN, Draws, DrawSpread

A, C = 3.0, 12.0
NONE = Draws(0, 0)


def test_the_fewest_draws_for_a_variance():
    variance = 0.0137
    found = DrawSpread(math.sqrt(A), math.sqrt(C)).draws(variance, NONE)
    assert A / found.first + C / found.levels <= variance
    # Every R with the least K that makes the variance.
    calls = min(
        R + math.ceil(C / (variance - A / R)) for R in range(math.ceil(A / variance) + 1, 5000)
    )
    assert calls <= found.calls <= calls + 1
    assert found.calls == pytest.approx(DrawSpread(A**0.5, C**0.5).calls(variance), abs=2)


def test_the_share_of_given_draws_has_the_least_variance():
    spread, total = DrawSpread(math.sqrt(A), math.sqrt(C)), 90
    best = min(range(1, total), key=lambda R: A / R + C / (total - R))
    assert spread.share * total == pytest.approx(best, abs=0.5)
    assert DrawSpread(0.0, 2.0).share == 0
    assert DrawSpread(0.0, 0.0).share == DrawSpread(math.inf, 1.0).share == 0.5


def bound(n: int, first: int, levels: int, generator: torch.Generator) -> Bound:
    """Costs of unit variance at level 1, and of standard deviation 3 at every other."""
    draws = torch.randn(n, first, dtype=torch.float64, generator=generator)
    costs = 3 * torch.randn(n, levels, dtype=torch.float64, generator=generator)
    return Bound(
        reconstruction=draws.mean(1),
        prior_matching=torch.zeros(n, dtype=torch.float64),
        score_matching=costs,
        levels=torch.full((n, levels), 2),
        weights=torch.full((n, levels), 1 / levels, dtype=torch.float64),
        dims=1,
        reconstruction_variance=draws.var(1) / first,
        reconstruction_calls=torch.full((n,), first),
    )


def test_the_spread_is_measured_whatever_the_numbers_of_draws():
    generator = torch.Generator().manual_seed(0)
    parts = [bound(4000, 4, 8, generator), bound(1000, 10, 4, generator)]
    found = DrawSpread.of(parts)
    assert (found.first, found.levels) == pytest.approx((1.0, 3.0), rel=0.05)


def test_the_least_draws_are_kept():
    found = DrawSpread(1e-6, 1e-6).draws(1.0, Draws(3, 4))
    assert (found.first, found.levels) == (3, 4)
    assert Draws.least(1, 10) == Draws(33, 64)
    assert Draws.least(1000, 10) == Draws(2, 2)
    assert Draws.least(1000, 1) == Draws(2, 0)


def test_more_draws_bring_the_error_down():
    draws = Draws(100, 200)
    more = draws.more(1.5)
    grown = (draws.calls + more.calls) / draws.calls
    assert grown == pytest.approx((1.5 / MARGIN) ** 2, rel=0.01)
    assert draws.more(0.5) == Draws(2, 2)
    assert Draws(4, 0).more(0.5).levels == 0
    assert draws.grown_to(600) == Draws(200, 400)
    assert draws.grown_to(3) == draws
