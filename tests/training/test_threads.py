"""The number of threads is the faster of those tried, and trying changes nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nelbo.training import threads
from nelbo.training.threads import use_fastest_threads
from tests.training.test_trainer import trainer


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("fast", [1, 2])
def test_the_faster_setting_stays(fast, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def step():
        now[0] += 0.001 if torch.get_num_threads() == fast else 0.02

    assert use_fastest_threads(step) == fast
    assert torch.get_num_threads() == fast


def test_a_rehearsal_changes_nothing():
    t, untouched = trainer(steps=2), trainer(steps=2)
    t.rehearse()
    list(t.run())
    list(untouched.run())
    for a, b in zip(t.model.parameters(), untouched.model.parameters(), strict=True):
        assert torch.equal(a, b)
