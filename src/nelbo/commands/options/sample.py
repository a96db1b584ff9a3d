"""What `nelbo sample` asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import listed
from nelbo.commands.groups import (
    DrawingOptions,
    DrawnAtATime,
    QualityOptions,
    check_counts,
    check_out,
    check_png,
)

_IMAGES, _OF_ONE_PROMPT = 16, 4
_LARGEST_SCALE = 64
# What --files calls a picture.
_NAME = re.compile(r"\d{5}\.png")


@dataclass(frozen=True)
class Sample(DrawingOptions):
    """Sample images from a model: a grid, single files, an animation."""

    out: Path = Path("samples.png")
    """The grid to write, PNG."""
    files: Path | None = None
    """Directory to also write each image to, a PNG of its own size."""
    animation: Path | None = None
    """Animation of the walk to write as well, .gif or .webp."""
    animate: Literal["x_t", "x_0"] = "x_t"
    """What the animation shows: the state, or the data predicted from it."""
    n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None
    """How many images, image i of a seed being always the same; by default one for each of several
    labels, prompts or controls, 4 of one prompt or control, else 16. With --interpolate how many
    rows, 1 by default."""
    scale: int | None = None
    """Whole factor to enlarge the pictures of the grid and animation by, each pixel a block; by
    default what makes small ones easy to see. 1 leaves them as they are; --files always are."""
    interpolate: int | None = None
    """Images a row on the straight way from the first --prompt to the second, with one noise."""
    levels: Literal["spaced", "optimal"] = "spaced"
    """Which levels fewer steps visit: by `spacing`, or those of the best bound with the optimal
    variance, once `nelbo fit` has measured the run."""
    batch_size: DrawnAtATime = 64
    judged: QualityOptions = field(default_factory=QualityOptions)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        super().check()
        if self.interpolate is not None and self.interpolate < 2:
            raise NelboError(f"--interpolate must be at least 2, got {self.interpolate}")
        n = self.images()
        check_counts(n, self.batch_size)
        if self.interpolate is None:
            self.condition.check_count(n)
        if self.scale is not None and not 1 <= self.scale <= _LARGEST_SCALE:
            raise NelboError(f"--scale must lie in 1..{_LARGEST_SCALE}, got {self.scale}")
        check_png(self.out)
        if self.files is not None:
            check_out(self.files, "--files", directory=True)
            self._check_no_others(n)
        self.judged.check_options(n)

    def images(self) -> int:
        """How many images to draw."""
        if self.interpolate is not None:
            return (1 if self.n is None else self.n) * self.interpolate
        if self.n is not None:
            return self.n
        labels, prompts = len(self.condition.labels()), len(self.condition.prompts())
        controls = max(map(len, self.controlled.control), default=0)
        most = max(labels, prompts, controls)
        if most == 1 and (prompts or controls):
            return _OF_ONE_PROMPT
        return most if most > 1 else _IMAGES

    def file(self, i: int) -> Path:
        """Where image i is written on its own."""
        assert self.files is not None
        return self.files / f"{i:05d}.png"

    def _check_no_others(self, n: int) -> None:
        """Raise `NelboError` where pictures of an earlier call would stay beside the new ones."""
        assert self.files is not None
        made = [path for path in self.files.glob("*.png") if _NAME.fullmatch(path.name)]
        others = sorted(path.name for path in made if int(path.stem) >= n)
        if others:
            raise NelboError(
                f"--files {self.files} holds {len(others)} of the pictures of an earlier call that "
                f"these {n} would not replace ({listed(others)}): remove them, or give another "
                "directory"
            )
