"""Which noise levels a walk visits, against their formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from nelbo import NoiseSchedule
from nelbo.samplers import DPMSolver, Euler, Heun
from nelbo.samplers.grid import checked_times, spaced_levels, spaced_times

SCHEDULE = NoiseSchedule.linear(60, 1e-3, 0.2)
SIGNAL = SCHEDULE.alphas_cumprod[1:].numpy()
SIGMAS = np.sqrt((1 - SIGNAL) / SIGNAL)


@pytest.mark.parametrize("steps", [2, 3, 9])
@pytest.mark.parametrize("kind", [Euler, Heun, DPMSolver])
def test_they_are_even_in_what_they_are_named_after(kind, steps):
    even = np.linspace(0, 1, steps)

    def found(name: str, **options: float) -> list[float]:
        grid = kind(steps, noise_levels=name, **options).grid(SCHEDULE)
        return [level.sigma for level in grid]

    for rho in (5.0, 0.5):
        root = SIGMAS[[-1, 0]] ** (1 / rho)
        expected = (root[0] + even * (root[1] - root[0])) ** rho
        assert found("karras", rho=rho) == pytest.approx(expected)
    log = np.log(SIGMAS[[-1, 0]])
    assert found("log_snr") == pytest.approx(np.exp(log[0] + even * (log[1] - log[0])))
    first, last = SIGMAS[[-1, 0]] / (1 + SIGMAS[[-1, 0]])
    w = first + even * (last - first)
    w = 3 * w / (1 + 2 * w)
    if kind is not DPMSolver:  # whose times of flow matching end as its spacing does
        assert found("flow", shift=3.0) == pytest.approx(w / (1 - w))


def test_levels_of_the_chain_as_in_table_2_of_lin_et_al():
    assert spaced_levels(1000, 5, "leading", 1) == [2, 202, 402, 602, 802]
    assert spaced_levels(1000, 5, "leading") == [1, 201, 401, 601, 801]
    assert spaced_levels(1000, 5, "trailing") == [200, 400, 600, 800, 1000]
    assert spaced_times(10, 3, "linspace") == [0.0, 4.5, 9.0]
    # Of 7 levels in 3 steps: 7, 7 − 7/3 and 7 − 14/3, rounded.
    assert spaced_levels(7, 3, "trailing") == [2, 5, 7]
    for spacing in ("leading", "linspace", "trailing"):
        assert spaced_levels(7, 7, spacing) == [1, 2, 3, 4, 5, 6, 7]


def test_times_of_ones_own_fall_from_noise_to_data():
    assert checked_times([1.0, 0.5, 0.1]) == [1.0, 0.5, 0.1]
    assert checked_times([0.3]) == [0.3]
