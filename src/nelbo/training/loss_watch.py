"""The loss over steps: its running mean, and whether it has left for good."""

from __future__ import annotations

import math

# A loss this many times its lowest running mean, for this many steps in a row, has exploded.
EXPLOSION_FACTOR = 10
EXPLOSION_STEPS = 20


class RunningMean:
    """An exponential moving average without the bias towards its start."""

    def __init__(self, smoothing: float) -> None:
        self.smoothing, self.total, self.weight = smoothing, 0.0, 0.0

    def update(self, value: float) -> float:
        """Take in a value, and return the mean."""
        self.total = self.smoothing * self.total + (1 - self.smoothing) * value
        self.weight = self.smoothing * self.weight + (1 - self.smoothing)
        return self.value

    @property
    def value(self) -> float:
        """The running mean; requires at least one update."""
        return self.total / self.weight


class ExplosionWatch:
    """Sees a loss that has left for good: many steps far above its lowest running mean."""

    def __init__(self) -> None:
        self.lowest, self.seen, self.above = math.inf, 0, 0

    def exploded(self, loss: float, running_loss: float) -> bool:
        """Take in the loss of a step; whether it has exploded."""
        self.seen += 1
        # A loss that may be negative, as that of a density, has no scale to compare with.
        self.above = self.above + 1 if 0 < EXPLOSION_FACTOR * self.lowest < loss else 0
        if self.seen >= EXPLOSION_STEPS:
            self.lowest = min(self.lowest, running_loss)
        return self.above >= EXPLOSION_STEPS

    @property
    def suspicious(self) -> bool:
        """Whether the last loss was far above: no state to keep."""
        return self.above > 0
