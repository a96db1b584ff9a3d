"""What `nelbo export` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nelbo.base.errors import NelboError
from nelbo.commands.groups import AsJson, RunPath, check_new


@dataclass(frozen=True)
class Export:
    """Export a model of pixels or latents as a clean diffusers pipeline with a model card."""

    run_path: RunPath
    """A run, a diffusers pipeline directory, or a checkpoint that ships with nelbo."""
    out: Path
    """The directory to make; it must be new or empty."""
    checkpoint: int | Literal["best"] | None = None
    """The averaged weights of a checkpoint that the run has kept, by its step, or the best by the
    validation bound (--validate-every), rather than the last ones."""
    sigma_rel: float | None = None
    """Weights averaged over this length of the training, made from snapshots (--snapshot-every):
    the standard deviation of the average's profile as a share of the run, 0.05 to 0.15."""
    name: str | None = None
    """Title of the model card; by default the name of the run."""
    license: str | None = None
    """Licence of the weights for the card, such as cc-by-4.0; by default that of the card of RUN,
    if it has one, or that of the data."""
    prompt: str | None = None
    """Example for the card of a model of text; by default the first that the run drew."""
    json: AsJson = False

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        check_new(self.out)
        if self.checkpoint is not None and self.sigma_rel is not None:
            raise NelboError("give either --checkpoint or --sigma-rel")
