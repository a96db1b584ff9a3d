"""What `nelbo classify` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nelbo.base.errors import NelboError
from nelbo.commands.groups import SplitOptions, check_out


@dataclass(frozen=True)
class Classify(SplitOptions):
    """Classify images by the bound of a class- or text-conditional model, without a classifier."""

    prompt_file: Path | None = None
    """For a text-conditional model, a file with a prompt for each class, one a line; by default the
    names of the classes of the images."""
    template: str = "{}"
    """Template of a prompt for the name of a class, such as "a photo of a {}"."""
    margin: float = 3.0
    """Standard errors that a class must be behind before it is dropped: larger is surer and costs
    more network evaluations."""
    draws: int = 64
    """At most this number of draws of level and noise an image."""
    out: Path | None = None
    """CSV file for the class of each image; the first are printed in any case."""

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        super().check()
        if self.out is not None:
            check_out(self.out)
        if not self.margin > 0:
            raise NelboError(f"--margin must be a positive number, got {self.margin:g}")
        if self.draws < 2:
            raise NelboError(f"--draws must be at least 2, got {self.draws}")
        if "{}" not in self.template:
            raise NelboError(f"--template {self.template!r} has no {{}} for the class")
