"""What `nelbo likelihood` asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from nelbo.base.errors import NelboError
from nelbo.commands.groups import (
    Computing,
    at_least_one,
)


@dataclass(frozen=True)
class Likelihood:
    """Compute the log-likelihood of images by the probability-flow ODE, beside their bound."""

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A run, a diffusers pipeline directory, or a Hub id."""
    data: str | None = None
    """As in `nelbo train`; by default what the run was trained on."""
    split: str = "test"
    """Which images: train, validation, test or all."""
    keep_duplicates: bool = False
    """Keep test images whose pixels are those of images that the run was trained or chosen on."""
    images: int = 32
    """At most this number of images, drawn at random by the seed."""
    resize: bool = False
    """Crop and resize images of another size than the model's."""
    batch_size: int = 32
    """Images at a time; they share the integrator's steps."""
    dequantization: str | None = None
    """How pixels become real numbers: decoder, the default, truncated_normal or uniform. Latents
    are real numbers, and start the flow themselves (none) or through level 1 (decoder)."""
    trace: str = "rademacher"
    """The divergence: rademacher or normal probes, or exact for small images."""
    draws: int = 1
    """Dequantised states or latents an image, which tighten the bound; more than one needs the
    exact trace."""
    tolerance: float = 1e-3
    """Relative and absolute tolerance of the integrator."""
    levels: int = 100
    """Levels an image for the bound beside it."""
    computing: Computing = field(default_factory=Computing)

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        self.computing.check()
        at_least_one(
            images=self.images,
            batch_size=self.batch_size,
            draws=self.draws,
            levels=self.levels,
        )
        if not self.tolerance > 0:
            raise NelboError(f"--tolerance must be positive, got {self.tolerance:g}")
