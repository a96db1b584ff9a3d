"""What `nelbo classify` asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from nelbo.base.errors import NelboError
from nelbo.commands.groups import (
    Computing,
    at_least_one,
    check_out,
)


@dataclass(frozen=True)
class Classify:
    """Classify images by the bound of a class- or text-conditional model, without a classifier."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run or diffusers pipeline directory of a conditional model, or a Hub id."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    split: str = "test"
    """Which images: train, validation, test or all."""
    keep_duplicates: bool = False
    """Keep test images whose pixels are those of images that the run was trained or chosen on."""
    prompt_file: Path | None = None
    """For a text-conditional model, a file with a prompt for each class, one a line; by default the
    names of the classes of the images."""
    template: str = "{}"
    """Template of a prompt for the name of a class, such as "a photo of a {}"."""
    images: int | None = None
    """At most this number of images, drawn at random by the seed; all by default."""
    margin: float = 3.0
    """Standard errors that a class must be behind before it is dropped: larger is surer and costs
    more network evaluations."""
    draws: int = 64
    """At most this number of draws of level and noise an image."""
    out: Path | None = None
    """CSV file for the class of each image; the first are printed in any case."""
    resize: bool = False
    """Crop and resize images of another size than the model's."""
    batch_size: int = 64
    """Images at a time."""
    computing: Computing = field(default_factory=Computing)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        self.computing.check()
        if self.out is not None:
            check_out(self.out)
        at_least_one(images=self.images, batch_size=self.batch_size)
        if not self.margin > 0:
            raise NelboError(f"--margin must be a positive number, got {self.margin:g}")
        if self.draws < 2:
            raise NelboError(f"--draws must be at least 2, got {self.draws}")
        if "{}" not in self.template:
            raise NelboError(f"--template {self.template!r} has no {{}} for the class")
