"""What `nelbo evaluate` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nelbo.base.errors import NelboError
from nelbo.commands.groups import RunPath, SplitOptions, check_out
from nelbo.training.ranges import at_least_one


@dataclass(frozen=True)
class Evaluate(SplitOptions):
    """Evaluate the bound of a model on images, term by term."""

    run_path: RunPath
    """A run, a diffusers pipeline directory, or a Hub id; a run of an autoencoder alone is read as
    a plain VAE, with its PSNR."""
    control: str | None = None
    """Of a model with a ControlNet, what its control shows, as in `nelbo train --model controlnet`,
    by default as the run was trained; measure what it explains as well. none is the base alone."""
    error: float | None = None
    """Add levels until the Monte Carlo standard error of the mean, in bits/dim, is this small;
    0.01 where neither this nor --levels is given."""
    levels: int | Literal["all", "optimal"] | None = None
    """Instead, levels of the chain an image: all, or a number, drawn where they matter (as a pilot,
    or the profile of `nelbo fit`, finds) and weighted without bias. With --steps, "optimal" keeps
    the levels of the best bound, with the optimal variance."""
    steps: int | None = None
    """Evaluate a shorter chain of this number of levels, evenly spaced or optimal."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """bf16 evaluates the network in mixed precision; auto does where that is faster and, on a few
    images, moves the bound by less than a tenth of --error (of 0.01 without it)."""
    out: Path | None = None
    """Directory for the bound of each image, images.csv, and of each batch: an evaluation that was
    cut short goes on there, and the processes of `accelerate launch` or torchrun share it."""

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        super().check()
        if self.out is not None:
            check_out(self.out, directory=True)
        at_least_one(steps=self.steps)
        if self.levels not in (None, "optimal") and self.error is not None:
            raise NelboError("--error chooses the number of levels: give it or --levels, not both")
        if self.levels not in (None, "all", "optimal") and int(self.levels) < 1:
            raise NelboError(f"--levels must be all, optimal or at least 1, got {self.levels}")
        if self.error is not None and not self.error > 0:
            raise NelboError(f"--error must be positive, in bits/dim, got {self.error:g}")
