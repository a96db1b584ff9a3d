"""What the end of a training run draws for its report."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nelbo.training.ranges import at_least_one

# Network calls of a sample with the sampler that suits its chain, and how many samples.
STEPS, IMAGES = 25, 64
# Least numbers: with fewer steps pictures are noise, and fewer pictures show little.
_FEWEST_STEPS, _FEWEST_IMAGES, _SOME_IMAGES = 10, 4, 16


@dataclass(frozen=True)
class FinalSamples:
    """How many samples, and how they are drawn."""

    sample_images: int | None = None
    """How many samples to draw for the report; by default 64, or fewer where these would take more
    than their part of the time."""
    sample_steps: int | None = None
    """Network calls for each of them; by default 25, or fewer."""

    def check(self) -> None:
        """Raise `NelboError` for less than one."""
        at_least_one(sample_images=self.sample_images, sample_steps=self.sample_steps)

    @property
    def is_default(self) -> bool:
        """Whether nothing was asked for."""
        return self == FinalSamples()

    def calls(self, levels: int) -> int:
        """Network calls of all samples, where there is time."""
        images, steps = self.plan(levels)
        return images * steps

    def plan(self, levels: int, calls: float = math.inf) -> tuple[int, int]:
        """How many samples, and how many network calls for each.

        What was asked for is kept. Else there are first fewer samples, down to 16; then fewer
        calls, down to 10; then fewer samples, down to 4.

        Args:
            levels: of the chain, and so the most calls.
            calls: how many there is time for in all.
        """
        steps = min(self.sample_steps or STEPS, levels)
        images = self.sample_images or IMAGES
        if self.sample_images is None:
            images = min(images, max(_SOME_IMAGES, _whole(calls / steps)))
        if self.sample_steps is None:
            steps = min(steps, max(min(_FEWEST_STEPS, levels), _whole(calls / images)))
        if self.sample_images is None:
            images = min(images, max(_FEWEST_IMAGES, _whole(calls / steps)))
        return images, steps


def _whole(count: float) -> int:
    return int(min(count, 1e9))
