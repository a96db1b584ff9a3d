"""The warm-up as a share of the run, and how far a run is expected to get."""

from __future__ import annotations

import math

import pytest

from nelbo import NelboError
from nelbo.training.config import TrainingConfig
from nelbo.training.optimizer import rate_factor
from nelbo.training.pace import Outlook, step_seconds
from tests.training.test_trainer import trainer


def cosine(fraction: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * fraction))


def test_the_warm_up_is_a_share_of_the_steps():
    rates = [s.learning_rate for s in trainer(steps=20, warmup=0.25, learning_rate=1.0).run()]
    for step, rate in enumerate(rates):
        assert rate == pytest.approx(min(1.0, (step + 1) / 5) * cosine(step / 20))


def test_the_warm_up_is_a_share_of_the_time():
    config = TrainingConfig(time_budget="100s", warmup=0.1)
    # 40 steps of 2.5 s: the fourth one ends when a tenth of the time is over.
    for step in range(1, 40):
        fraction = step / 40
        expected = min(1.0, (step + 1) / 4) * cosine(fraction)
        assert rate_factor(step, fraction, config) == pytest.approx(expected)
    # How long the first one takes is not known.
    assert 0 < rate_factor(0, 0.0, config) <= 0.05


@pytest.mark.parametrize("options", [{"warmup": 0.0}, {"warmup_steps": 0}])
def test_without_a_warm_up_it_begins_at_the_peak(options):
    assert rate_factor(0, 0.0, TrainingConfig(steps=10, **options)) == 1.0


def test_steps_of_warm_up_are_as_they_were():
    """Settings of earlier runs hold `warmup_steps`: their rates are those of then, to the bit."""
    config = TrainingConfig(steps=200, warmup_steps=50)
    for step in (0, 1, 49, 50, 51, 199):
        before = min(1.0, (step + 1) / 51) * 0.5 * (1 + math.cos(math.pi * (step / 200)))
        assert rate_factor(step, step / 200, config) == before


def test_both_ways_to_give_a_warm_up_are_refused():
    with pytest.raises(NelboError, match="--warmup is a share of the run and --warmup-steps a num"):
        TrainingConfig(warmup=0.2, warmup_steps=3).check()
    with pytest.raises(NelboError, match=r"--warmup must lie in \[0, 1\), got 1.0"):
        TrainingConfig(warmup=1.0).check()


@pytest.mark.parametrize(
    ("options", "each", "before", "steps", "seconds"),
    [
        ({"time_budget": "4m"}, 6.0, (0, 0.0), 40, 240.0),
        ({"time_budget": "4m"}, 7.0, (0, 0.0), 35, 240.0),
        ({"steps": 100}, 0.5, (0, 0.0), 100, 50.0),
        ({"steps": 100, "time_budget": "10s"}, 0.5, (0, 0.0), 20, 10.0),
        ({"steps": 10, "time_budget": "10s"}, 0.5, (0, 0.0), 10, 5.0),
        ({"steps": 100}, 0.5, (90, 44.0), 10, 5.0),
        ({"time_budget": "60s"}, 1.0, (41, 50.0), 10, 10.0),
        ({"time_budget": "60s"}, 1.0, (41, 70.0), 0, 0.0),
    ],
)
def test_how_far_a_run_gets(options, each, before, steps, seconds):
    done, spent = before
    outlook = Outlook.of(TrainingConfig(**options), each, done=done, spent=spent)
    assert (outlook.steps, outlook.seconds) == (steps, pytest.approx(seconds))


@pytest.mark.parametrize(
    ("options", "each", "warms_up"),
    [
        ({"time_budget": "4m", "warmup_steps": 50}, 6.0, False),
        ({"time_budget": "4m", "warmup_steps": 39}, 6.0, True),
        ({"time_budget": "4m", "warmup_steps": 40}, 6.0, False),
        ({"time_budget": "4m"}, 6.0, True),
        ({"time_budget": "100s"}, 6.0, True),
        ({"steps": 3, "warmup": 0.0}, 1.0, True),
    ],
)
def test_whether_it_leaves_the_warm_up(options, each, warms_up):
    outlook = Outlook.of(TrainingConfig(**options), each)
    assert outlook.warms_up is warms_up
    assert outlook.is_short
    assert not Outlook.of(TrainingConfig(steps=1000), 1.0).is_short


def test_a_step_is_timed_by_a_few_and_a_slow_one_by_one(monkeypatch):
    monkeypatch.setattr("nelbo.training.pace.STEPS", 5)
    now = 0.0
    for each, calls in ((0.01, 5), (0.3, 2), (9.0, 1)):
        taken = []

        def step(each=each, taken=taken):
            nonlocal now
            now += each
            taken.append(each)

        monkeypatch.setattr("nelbo.training.pace.time.perf_counter", lambda: now)
        assert step_seconds(step) == pytest.approx(each)
        assert len(taken) == calls
