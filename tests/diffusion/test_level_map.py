"""The map between level, network time, σ and angle against its definition."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import NelboError, NoiseSchedule
from nelbo.diffusion.noise_level import NoiseLevel, NoiseLevels

SCHEDULE = NoiseSchedule.scaled_linear(1000)
SHORT = SCHEDULE.respace([1, 3, 11, 500, 1000])


def sigma_at(t: int) -> float:
    signal = float(SCHEDULE.alphas_cumprod[t])
    return math.sqrt((1 - signal) / signal)


@pytest.mark.parametrize("t", [1, 2, 480, 1000])
def test_a_level_is_found_by_its_level_its_sigma_and_its_time(t):
    exact = SCHEDULE.noise_level(t)
    for found in (
        SCHEDULE.at_level(t),
        SCHEDULE.at_sigma(sigma_at(t)),
        SCHEDULE.at_sigma(sigma_at(t) * 1.0001, nearest=True),
    ):
        assert found == pytest.approx(exact, rel=2e-4)
        assert found.t == SCHEDULE.level_of(exact.network_time) == t
    assert isinstance(SCHEDULE.at_level(t).network_time, int)
    assert exact.sigma == pytest.approx(sigma_at(t))
    assert float(SCHEDULE.angles[t]) == pytest.approx(math.atan(sigma_at(t)))


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_between_two_levels_the_time_is_linear_in_log_sigma(share):
    # Levels 3 and 4 of the short chain are the levels 11 and 500, which have the times 10 and 499.
    sigma = sigma_at(11) ** (1 - share) * sigma_at(500) ** share
    level = SHORT.at_sigma(sigma)
    assert level.network_time == pytest.approx(10 + share * 489)
    assert level.t == (3 if share < 0.5 else 4)
    assert SHORT.at_log_snr(-2 * math.log(sigma)) == pytest.approx(level)
    assert SHORT.at_sigma(sigma, nearest=True).network_time == (10 if share < 0.5 else 499)
    assert level.signal_scale**2 == pytest.approx(1 / (1 + sigma**2))
    assert level.noise_scale**2 == pytest.approx(sigma**2 / (1 + sigma**2))


def test_beyond_the_chain_the_time_is_that_of_its_end():
    assert SHORT.at_sigma(1e-9).network_time == 0
    assert SHORT.at_sigma(1e9).network_time == 999
    assert SHORT.at_sigma(1e9).sigma == pytest.approx(1e9)


def test_a_level_between_two_has_the_sigma_between_theirs():
    level = SHORT.at_level(3.25)
    assert level.sigma == pytest.approx(0.75 * sigma_at(11) + 0.25 * sigma_at(500))
    assert level.network_time == pytest.approx(10 + 0.25 * 489)
    assert level.t == 3


def test_a_level_without_signal_has_a_finite_sigma():
    schedule = SCHEDULE.with_zero_terminal_snr()
    assert schedule.sigmas[-1] == pytest.approx(math.sqrt(2.0**24))
    assert schedule.at_sigma(1e6).t == 1000
    assert schedule.angles[-1] == pytest.approx(math.pi / 2)
    # In log SNR it lies at infinity, and levels of next to no signal where they are.
    assert schedule.at_log_snr(-99.0).t == 999
    faint = NoiseSchedule.geometric(1000, last_signal=1e-10)
    assert faint.at_log_snr(float(faint.log_snr[998])).network_time == pytest.approx(997)


@pytest.mark.parametrize(
    ("signal", "last", "largest"),
    [
        ([0.5, 0.01], 99**0.5, 99**0.5),
        ([0.5, 2.0**-30], (2.0**30 - 1) ** 0.5, (2.0**30 - 1) ** 0.5),
        # Without signal it counts as 2⁻²⁴, or as a quarter of what is left below.
        ([0.5, 0.01, 0.0], 2.0**12, 2.0**12),
        ([0.5, 2.0**-30, 0.0], 2.0**16, 2.0**12),
    ],
)
def test_where_a_walk_starts(signal, last, largest):
    schedule = NoiseSchedule.from_levels(signal)
    assert float(schedule.sigmas[-1]) == pytest.approx(last)
    assert schedule.largest_sigma == pytest.approx(largest)


def test_the_measures_of_one_level_are_of_one_another():
    level = NoiseLevel(0.6, 0.8, 3.5, 4)
    assert level.sigma == pytest.approx(4 / 3)
    assert level.angle == pytest.approx(math.atan(4 / 3))
    assert level.half_log_snr == pytest.approx(math.log(3 / 4))
    assert NoiseLevel(1.0, 0.0, -1, 0).half_log_snr == math.inf  # the data
    noise = NoiseLevel(0.0, 1.0, 9, 10)
    assert (noise.sigma, noise.angle) == (math.inf, math.pi / 2)
    for time, kind in ((3.5, torch.float64), (3, torch.int64)):
        x = torch.zeros(2, 1, 1, 1, dtype=torch.float64)
        a, s, called = level._replace(network_time=time).on(x)
        assert (float(a), float(s)) == (0.6, 0.8)
        assert (called.tolist(), called.dtype) == ([time, time], kind)


def test_a_level_of_each_example_is_of_that_example():
    a, s, time = torch.tensor([[0.6, 0.28], [0.8, 0.96], [2.0, 7.5]]).unbind()
    x_0, noise = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).unbind()
    found = NoiseLevels(a, s, time).diffuse(x_0, noise)
    for k in range(2):
        one = NoiseLevel(float(a[k]), float(s[k]), float(time[k]), 0)
        torch.testing.assert_close(found[k], one.diffuse(x_0[k], noise[k]))
    assert NoiseLevels(a, s, time).on(x_0)[2] is time


def test_a_time_of_flow_matching_is_placed_by_its_sigma():
    level = SHORT.at_flow_time(0.3)
    exact = SHORT.at_sigma(3 / 7)
    assert level == pytest.approx(exact)
    assert level.noise_scale / (level.signal_scale + level.noise_scale) == pytest.approx(0.3)
    # All noise: no σ has it, and the chain's last time is what the network knows.
    assert SHORT.at_flow_time(1.0) == NoiseLevel(0.0, 1.0, 999.0, 5)


def test_levels_of_times_and_of_a_respaced_chain():
    assert [SHORT.level_of(time) for time in (-1, 0, 2, 3, 10, 499, 700.5, 999)] == [
        *(0, 1, 2, 3, 3, 4, 5, 5)
    ]
    assert SCHEDULE.levels_of(SHORT).tolist() == [0, 1, 3, 11, 500, 1000]


def test_times_of_an_interval_of_sigma():
    assert SHORT.times_within(sigma_at(3), sigma_at(500)) == (10, 499)
    assert SHORT.times_within(0.0, 1e9) == (0, 999)
    assert SHORT.times_within(sigma_at(3), sigma_at(10)) is None
    assert SHORT.times_within(sigma_at(3), sigma_at(11)) == (10, 10)


@pytest.mark.parametrize("T", [1, 2, 3, 50, 1000])
@pytest.mark.parametrize("n", [1, 2, 11])
@pytest.mark.parametrize("make", [NoiseSchedule.cosine, NoiseSchedule.geometric])
def test_levels_even_in_angle(T, n, make):
    schedule = make(T)
    levels = schedule.even_in_angle(n)
    assert levels == sorted(set(levels))
    assert levels[-1] == T
    assert levels[0] >= 1
    assert len(levels) <= min(n, T)
    angles = torch.arcsin((1 - schedule.alphas_cumprod).sqrt())
    # Even to the width of the levels of the chain.
    turns = angles[[0, *levels]].diff()
    assert turns.max() < float(angles[-1]) / n + float(angles.diff().max()) + 1e-12


@pytest.mark.parametrize(
    ("ask", "places", "expected"),
    [
        (SHORT.noise_level, (-1, 6, 1.5, None), "t must"),
        (SHORT.at_level, (0, 5.1, math.nan, "3"), "t must"),
        (SHORT.at_sigma, (0, -1.0, math.nan, None), "sigma must"),
        (SHORT.at_flow_time, (0.0, 1.1, math.nan, None), "w must"),
        (SHORT.at_log_snr, (math.inf, math.nan, None), "log_snr must"),
        (SHORT.level_of, (-2, 1000, None), "network_time must"),
        (SHORT.even_in_angle, (0, 2.5, None), "n must"),
    ],
)
def test_places_off_the_map_are_refused_by_name(ask, places, expected):
    for place in places:
        with pytest.raises(NelboError, match=f"^{expected}"):
            ask(place)
