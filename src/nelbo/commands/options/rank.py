"""What `nelbo rank` asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nelbo.commands.groups import (
    Computing,
    at_least_one,
    check_out,
)


@dataclass(frozen=True)
class Rank:
    """Rank images by bits/dim, the most surprising first: find odd, damaged, mislabelled ones."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run, a diffusers pipeline directory, or a Hub id."""
    out: Path
    """Directory for ranking.csv and ranking.html; a ranking that was cut short goes on there."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    split: str | None = None
    """Which images: train, validation, test, or all, each marked with its split. By default those
    for test of what the run was trained on, for what a model has seen surprises it less, and all of
    other data."""
    score: Literal["bits", "excess"] = "bits"
    """Rank by bits/dim, or by their excess over a lossless image file of the same picture, so that
    what is only busy or colourful is not odd."""
    images: int | None = None
    """At most this number of images, drawn at random by the seed; all by default."""
    levels: int | None = None
    """Levels of the chain an image, drawn where they matter; more separate images of nearly the
    same rank. By default 50, and 10 for latents, whose bound varies at few levels."""
    shown: int = 24
    """How many images to show on each end of the page."""
    maps: bool = True
    """Show where in each of them the bits go."""
    resize: bool = False
    """Crop and resize images of another size than the model's."""
    batch_size: int = 64
    """Images at a time."""
    computing: Computing = field(default_factory=Computing)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        self.computing.check()
        check_out(self.out, directory=True)
        at_least_one(
            images=self.images,
            levels=self.levels,
            shown=self.shown,
            batch_size=self.batch_size,
        )
