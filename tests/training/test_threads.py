"""The number of threads is the faster of those tried, and trying changes nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nelbo.training import threads
from nelbo.training.threads import least_seconds, use_fastest_threads
from tests.training.test_trainer import trainer


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("fast", [1, 2])
def test_the_faster_setting_stays(fast, clock):
    def step():
        clock[0] += 0.001 if torch.get_num_threads() == fast else 0.02

    assert use_fastest_threads(step) == pytest.approx(0.001)
    assert torch.get_num_threads() == fast


@pytest.mark.parametrize(
    ("steps", "taken", "least"),
    [
        ([0.3, 0.2, 0.1, 0.15, 0.2], 5, 0.1),
        ([0.9, 0.3, 0.25, 0.1], 3, 0.25),  # half a second of repetitions is enough
        ([0.9, 0.6, 0.1], 2, 0.6),
        ([1.1, 0.1], 1, 1.1),
        ([0.1] * 9, 5, 0.1),
    ],
)
def test_a_few_steps_are_timed(steps, taken, least, clock):
    left = list(steps)

    def step():
        clock[0] += left.pop(0)

    assert least_seconds(step) == pytest.approx(least)
    assert len(steps) - len(left) == taken


def test_a_rehearsal_changes_nothing():
    t, untouched = trainer(steps=2), trainer(steps=2)
    t.rehearse()
    list(t.run())
    list(untouched.run())
    for a, b in zip(t.model.parameters(), untouched.model.parameters(), strict=True):
        assert torch.equal(a, b)
