"""What `nelbo rank` asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nelbo.commands.groups import ImageOptions, check_out
from nelbo.training.ranges import at_least_one


@dataclass(frozen=True)
class Rank(ImageOptions):
    """Rank images by bits/dim, the most surprising first: find odd, damaged, mislabelled ones."""

    out: Path = field(kw_only=True)
    """Directory for ranking.csv and ranking.html; a ranking that was cut short goes on there."""
    split: str | None = None
    """Which images: train, validation, test, or all, each marked with its split. By default those
    for test of what the run was trained on, for what a model has seen surprises it less, and all of
    other data."""
    score: Literal["bits", "excess"] = "bits"
    """Rank by bits/dim, or by their excess over a lossless image file of the same picture, so that
    what is only busy or colourful is not odd."""
    levels: int | None = None
    """Levels of the chain an image, drawn where they matter; more separate images of nearly the
    same rank. By default 50, and 10 for latents, whose bound varies at few levels."""
    shown: int = 24
    """How many images to show on each end of the page."""
    maps: bool = True
    """Show where in each of them the bits go."""

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        super().check()
        check_out(self.out, directory=True)
        at_least_one(levels=self.levels, shown=self.shown)
