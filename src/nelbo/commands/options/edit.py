"""What `nelbo edit` asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from nelbo.base.errors import NelboError
from nelbo.commands.groups import DrawingOptions, DrawnAtATime, check_counts, check_png
from nelbo.training.ranges import at_least_one, refuse

INVERSION = "inversion"


@dataclass(frozen=True)
class Edit(DrawingOptions):
    """Edit a picture: redraw its details, paint a part of it, or go over into another one."""

    image: Path = field(kw_only=True)
    """The picture to edit."""
    out: Path = Path("edited.png")
    """The picture to write, PNG; a grid for several."""
    mask: Path | None = None
    """Paint where this picture is white, and keep where it is black or transparent."""
    interpolate: Path | None = None
    """Go over into this picture."""
    strength: float | None = None
    """Share of the steps that are taken, in (0, 1]: how little of the picture is kept. By default
    0.6, and 1 to interpolate."""
    frames: int = 8
    """Pictures of an interpolation."""
    encoder: str = INVERSION
    """How to interpolate: by inversion of ddim, or by diffusion with shared noise."""
    jump_length: int = 10
    """Levels that inpainting goes back up at a time."""
    jump_n_sample: int = 10
    """How often inpainting walks each stretch; less is faster and fits less well."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """How many different results, result i of a seed being always the same; interpolation has
    one."""
    resize: bool = True
    """Cut pictures of another size than the model's in the middle, and scale them; --no-resize
    refuses them."""
    batch_size: DrawnAtATime = 64

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        super().check()
        check_counts(self.n, self.batch_size)
        check_png(self.out)
        if self.interpolate is None:
            self.condition.check_count(self.n)
        self._check_combination()

    def _check_combination(self) -> None:
        inpaints, interpolates = self.mask is not None, self.interpolate is not None
        if inpaints and interpolates:
            raise NelboError("give either --mask or --interpolate")
        if interpolates and self.n != 1:
            raise NelboError("an interpolation has one result: leave out -n, or give --frames")
        if inpaints:
            refuse(self, "strength", why="takes effect without --mask only")
        else:
            refuse(self, "jump_length", "jump_n_sample", why="takes effect with --mask only")
        if not interpolates:
            refuse(self, "frames", "encoder", why="takes effect with --interpolate only")
        at_least_one(jump_length=self.jump_length, jump_n_sample=self.jump_n_sample)
