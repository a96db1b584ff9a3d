"""How far a run gets in its time: measured on a few steps before it begins."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from nelbo.training.config import TrainingConfig

# A measurement stops after this many seconds, or steps.
_SECONDS, STEPS = 0.5, 5
# With fewer steps a network has hardly begun to learn.
FEW_STEPS = 100


def step_seconds(step: Callable[[], object], agreed: Callable[[float], float] = float) -> float:
    """Seconds that a step takes, the mean of a few; of a slow one, of one.

    Args:
        step: the work of a step, such as `Trainer.rehearse`, once it has been done before.
        agreed: what all processes that take the step go by, of what each has measured: see
            `Processes.of_first`.
    """
    start, done, spent = time.perf_counter(), 0, 0.0
    while done < STEPS and spent < _SECONDS:
        step()
        done += 1
        spent = agreed(time.perf_counter() - start)
    return spent / done


@dataclass(frozen=True)
class Outlook:
    """What is left of a run.

    Attributes:
        step_seconds: of a step.
        steps: how many steps are expected.
        seconds: how long they take.
        warms_up: whether they are enough for the learning rate to reach its peak.
    """

    step_seconds: float
    steps: int
    seconds: float
    warms_up: bool

    @classmethod
    def of(
        cls, config: TrainingConfig, step_seconds: float, *, done: int = 0, spent: float = 0.0
    ) -> Outlook:
        """What a run is expected to come to.

        Args:
            config: how it trains.
            step_seconds: of a step.
            done: steps that were taken before.
            spent: seconds that were spent before.
        """
        limits = []
        if config.steps is not None:
            limits.append(config.steps - done)
        if config.seconds is not None:
            limits.append(math.ceil((config.seconds - spent) / step_seconds))
        steps = max(0, min(limits))
        # A share of the run ends before the run does.
        warms_up = config.warmup_steps is None or done + steps > config.warmup_steps
        seconds = steps * step_seconds
        if config.seconds is not None:
            seconds = min(seconds, max(0.0, config.seconds - spent))
        return cls(step_seconds, steps, seconds, warms_up)

    @property
    def is_short(self) -> bool:
        """Whether the run is over before it has warmed up, or before it has learned much."""
        return not self.warms_up or self.steps < FEW_STEPS
