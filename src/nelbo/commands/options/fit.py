"""What `nelbo fit` asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nelbo.commands.groups import Computing, RunPath
from nelbo.training.ranges import at_least_one


@dataclass(frozen=True)
class Fit:
    """Measure each level of a run's chain once, for optimal variances and levels."""

    run_path: RunPath
    """A run or diffusers pipeline directory; level_profile.safetensors is written into it, unless
    --out names another place."""
    out: Path | None = None
    """Directory for a copy of the model with the profile, which stays out of RUN; it must be new or
    empty. Checkpoints that ship with nelbo are fitted so."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    split: str | None = None
    """Which images: validation, the default where there are any, or train; never those for test,
    on which figures are reported. Of other DATA than the run's, all as well."""
    images: int | None = 300
    """Number of images to measure on, drawn at random; "None" takes all."""
    levels: int | None = 100
    """About how many levels to measure, the others interpolated; "None" measures all."""
    draws: int = 1
    """Draws of noise an image."""
    captions: bool = True
    """Condition a model of text on the captions of the images; --no-captions measures it without,
    as `nelbo compress` codes pictures of no caption."""
    resize: bool = False
    """Crop and resize images of another size than the model's."""
    batch_size: int | None = None
    """Images at a time; by default as many as suit their size."""
    computing: Computing = field(default_factory=Computing)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        self.computing.check()
        at_least_one(
            images=self.images,
            levels=self.levels,
            draws=self.draws,
            batch_size=self.batch_size,
        )
