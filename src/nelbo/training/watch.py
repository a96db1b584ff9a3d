"""What is looked at while a run trains: samples and a bound of held-out images, now and then."""

from __future__ import annotations

import math
import time
from typing import Any

from nelbo.report.grids import save_image
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.kinds.kind import Kind
from nelbo.training.readings import Readings
from nelbo.training.trainer import Step, Trainer

# The first look, seconds after the command began, or after this share of a short run.
_FIRST_SECONDS, _FIRST_SHARE, _EARLIEST = 45.0, 0.1, 10.0
# From one look to the next: least seconds, share of the time passed, and multiple of the duration
# of the last one; where so few looks would fit into a run, a smaller multiple.
_EVERY, _GROWTH, _TIMES = 10.0, 0.1, 25.0
_LOOKS, _FEWER_TIMES = 6, 10.0
# What a look may take, seconds: a share of the run within bounds, of which some five then fit in
# what all of them may take, 1 / _TIMES; and the samples' part of it.
_SHARE, _LEAST, _MOST, _SAMPLES = 0.008, 0.5, 15.0, 0.6
# A step takes as long as three calls of the network on each of its images.
_CALLS_OF_A_STEP = 3
# Network calls of a reading, for each image.
_READING_CALLS = 9
_FEWEST_IMAGES, _MOST_IMAGES = 8, 64


class Watch:
    """Looks at a run now and then: draws samples and reads the bound of a few held-out images.

    When is decided by the time that training has taken, which all processes agree on.

    Args:
        kind: draws and reads.
        trainer: what trains.
        run: where to.
        step_seconds: of a step.
        whole_seconds: how long the run is expected to train.
        begun: when the command began, by `time.perf_counter`.

    Attributes:
        bits_per_dim: the last reading, or None.
    """

    def __init__(
        self,
        kind: Kind,
        trainer: Trainer,
        run: RunDirectory,
        *,
        step_seconds: float,
        whole_seconds: float,
        begun: float,
    ) -> None:
        self.kind, self.trainer, self.run = kind, trainer, run
        # Else the supervisor reads the bound, at the steps that were asked for.
        self._reads = not trainer.config.validate_every
        self.bits_per_dim: float | None = None
        self._step_seconds = step_seconds
        before = time.perf_counter() - begun
        self._longest = whole_seconds / _LOOKS
        self._allowed = min(_MOST, max(_LEAST, _SHARE * whole_seconds))
        a_second = _CALLS_OF_A_STEP * trainer.config.batch_size / max(step_seconds, 1e-9)
        calls = self._allowed * a_second
        self._calls = int(min(_SAMPLES * calls, 1e9))
        images = int(min((1 - _SAMPLES) * calls / _READING_CALLS, _MOST_IMAGES))
        self._images = max(_FEWEST_IMAGES, images)
        first = max(_EARLIEST, min(_FIRST_SECONDS - before, _FIRST_SHARE * whole_seconds))
        due = max(first, trainer.seconds + _EVERY) if trainer.step else first
        # All processes go by the clock of the first one.
        self._due = trainer.processes.of_first(due)
        self._looked: float | None = None
        self._readings = Readings()
        self._read_step = -1

    def at(self, step: Step) -> None:
        """Look, if it is time to; called after every step."""
        if self._looked is not None:  # by the clock of the run, which all processes share
            took = max(0.0, step.seconds - self._looked - self._step_seconds)
            wait = min(_TIMES * took, max(self._longest, _FEWER_TIMES * took))
            wait = max(_EVERY, _GROWTH * step.seconds, wait)
            self._due, self._looked = self._looked + wait, None
            if took > self._allowed:  # fewer samples; the images read stay the same
                self._calls = int(self._calls * self._allowed / took)
        if step.seconds + self._step_seconds < self._due or step.fraction == 1.0:
            return
        self._looked = step.seconds
        if self.trainer.processes.takes_part:
            seed = self.trainer.config.seed
            grid = self.kind.picture(self.trainer.average.model, seed, self._calls)
            if self.trainer.processes.is_main:
                save_image(grid, self.run.grid_of(step.step))
        self.read(step)

    def read(self, step: Step) -> None:
        """Read the bound, and keep how far it has changed since an earlier reading."""
        if not (self._reads and self.trainer.processes.takes_part) or self._read_step == step.step:
            return
        self._read_step = step.step
        model = self.trainer.average.model
        bits = self.kind.reading(model, self._images)
        row: dict[str, Any] = {
            "step": step.step,
            "seconds": step.seconds,
            "fraction": step.fraction,
            "bits_per_dim": float(bits.mean()),
            "images": self._images,
        }
        row |= self._readings.change(step, bits)
        self.bits_per_dim = row["bits_per_dim"]
        figures = self.kind.of_reading(model, bits)
        if self.trainer.processes.is_main:
            if figures:
                self.run.metrics.append({"step": step.step, "seconds": step.seconds, **figures})
            self.run.readings.append({k: v for k, v in row.items() if math.isfinite(v)})
