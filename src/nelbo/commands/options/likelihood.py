"""What `nelbo likelihood` asks for."""

from __future__ import annotations

from dataclasses import dataclass

from nelbo.base.errors import NelboError
from nelbo.commands.groups import SplitOptions
from nelbo.training.ranges import at_least_one


@dataclass(frozen=True)
class Likelihood(SplitOptions):
    """Compute the log-likelihood of images by the probability-flow ODE, beside their bound."""

    images: int | None = 32
    """At most this number of images, drawn at random by the seed; "None" takes all."""
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

    def check(self) -> None:
        """Raise `NelboError` for options that make no sense."""
        super().check()
        at_least_one(draws=self.draws, levels=self.levels)
        if not self.tolerance > 0:
            raise NelboError(f"--tolerance must be positive, got {self.tolerance:g}")
