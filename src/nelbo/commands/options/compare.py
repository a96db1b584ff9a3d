"""What `nelbo compare` asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from nelbo.commands.groups import (
    Computing,
    at_least_one,
)


@dataclass(frozen=True)
class Compare:
    """Compare two models, of pixels or of latents, on the same images by a paired test."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """As in `nelbo train`."""
    runs: tuple[str, str]
    """The two runs, diffusers pipeline directories or Hub ids to compare."""
    split: str = "test"
    """Which images: train, validation, test or all."""
    keep_duplicates: bool = False
    """Keep test images whose pixels are those of images that the run was trained or chosen on."""
    levels: int = 50
    """Levels of the chain an image, of latents drawn where they matter; two models of one kind meet
    the same levels and noise."""
    images: int | None = None
    """At most this number of images, drawn at random by the seed; all by default."""
    resize: bool = False
    """Crop and resize images of another size than the models'; not needed for those that one of the
    two was trained on."""
    batch_size: int = 64
    """Images at a time."""
    computing: Computing = field(default_factory=Computing)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        self.computing.check()
        at_least_one(levels=self.levels, images=self.images, batch_size=self.batch_size)
