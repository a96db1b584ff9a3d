"""A clock that no load of the machine changes."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from nelbo.training import trainer

TICK = 0.125


@pytest.fixture
def ticking(monkeypatch):
    """The clock of the training loop: each look at it is an eighth of a second after the last."""
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: TICK * next(ticks))
    monkeypatch.setattr(trainer, "time", clock)
