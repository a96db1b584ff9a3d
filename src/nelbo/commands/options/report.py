"""What `nelbo report` asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nelbo.base.errors import NelboError
from nelbo.commands.groups import Computing, RunPath
from nelbo.training.kinds.final_samples import FinalSamples
from nelbo.training.ranges import at_least_one


@dataclass(frozen=True)
class Report:
    """Evaluate a run, sample, and write its report, as at the end of training."""

    run_path: RunPath
    """A run directory, finished or interrupted, or a model that was saved."""
    out: Path | None = None
    """Directory for a copy of the model with the report, instead of writing into RUN; it must be
    new or empty. Checkpoints that ship with nelbo are reported so."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    levels: int | Literal["all"] | None = None
    """Levels an image for the bound of the test split: a number, or all, whatever time that takes;
    by default as many as fit into a fifth of the time that the run trained, or 20 s."""
    images: int | None = None
    """At most this number of images of each split, whatever time that takes; by default as
    many as fit, or 300 with --levels."""
    resize: bool = False
    """Cut and resize images of another size than the model's."""
    rate_distortion: int = 0
    """Code this number of test images coarse to fine at every level, and draw what they cost and
    lose beside what the bound's terms say; takes seconds to minutes an image."""
    samples: FinalSamples = field(default_factory=FinalSamples)
    computing: Computing = field(default_factory=Computing)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        self.computing.check()
        at_least_one(images=self.images, levels=None if self.levels == "all" else self.levels)
        if self.rate_distortion < 0:
            raise NelboError(f"--rate-distortion must be at least 0, got {self.rate_distortion}")
        self.samples.check()
