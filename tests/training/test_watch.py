"""When a run that trains is looked at."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from nelbo.runs.run_directory import RunDirectory
from nelbo.training.kinds.kind import Kind
from nelbo.training.trainer import Step, Trainer
from nelbo.training.watch import Watch

CALLS_OF_A_STEP = 3


class Slow:
    """A kind of model whose looks take the time of their network calls."""

    def __init__(self, of_a_call: float) -> None:
        self.of_a_call, self.took, self.looks = of_a_call, 0.0, 0

    def picture(self, model: None, seed: int, calls: int) -> None:
        self.took += calls * self.of_a_call

    def reading(self, model: None, images: int) -> torch.Tensor:
        self.looks += 1
        self.took += 9 * images * self.of_a_call
        return torch.zeros(images)

    def of_reading(self, model: None, bits: torch.Tensor) -> dict[str, float]:
        return {}


def looked(whole: float, times: float) -> Slow:
    """What a run of so many seconds was looked at, whose looks take longer than is expected."""
    step_seconds, batch = 2.0, 64
    kind = Slow(times * step_seconds / (CALLS_OF_A_STEP * batch))
    alone = SimpleNamespace(of_first=lambda value: value, takes_part=True, is_main=False)
    trainer = SimpleNamespace(
        config=SimpleNamespace(validate_every=0, batch_size=batch, seed=0),
        step=0,
        processes=alone,
        average=SimpleNamespace(model=None),
    )
    watch = Watch(
        cast(Kind, kind),
        cast(Trainer, trainer),
        RunDirectory(Path("nowhere")),
        step_seconds=step_seconds,
        whole_seconds=whole,
        begun=time.perf_counter(),
    )
    now, count = 0.0, 0
    while now < whole:
        now, count = now + step_seconds, count + 1
        before = kind.took
        step: Any = SimpleNamespace(step=count, seconds=now, fraction=min(1.0, now / whole))
        watch.at(cast(Step, step))
        now += kind.took - before
    return kind


@pytest.mark.parametrize("whole", [300.0, 1000.0, 3600.0])
def test_a_slow_network_is_looked_at_several_times_in_little_of_the_time(whole):
    kind = looked(whole, times=1.0)
    assert kind.looks >= 5
    assert kind.took < 0.06 * whole


@pytest.mark.parametrize("times", [2.0, 3.0, 5.0])
@pytest.mark.parametrize("whole", [1000.0, 3600.0])
def test_looks_that_take_longer_than_expected_draw_less_and_stay_several(whole, times):
    """A reading of a ControlNet took twice as long, and of a run there were two."""
    kind = looked(whole, times)
    assert kind.looks >= 5
    assert kind.took < 0.12 * whole
