"""What the end of a training run draws for its report."""

from __future__ import annotations

from dataclasses import dataclass

from nelbo.commands.options import at_least_one

# A respaced chain of this many levels draws like the whole one, in a fraction of the time.
PIXEL_STEPS = 250
LATENT_STEPS = 25


@dataclass(frozen=True)
class FinalSamples:
    """How many samples, and how they are drawn."""

    sample_images: int = 64
    """How many samples to draw for the report."""
    sample_steps: int | None = None
    """Network calls for each of them; by default 250 for pixels and 25 for latents."""

    def check(self) -> None:
        """Raise `NelboError` for less than one."""
        at_least_one(sample_images=self.sample_images, sample_steps=self.sample_steps)

    def steps(self, usual: int, levels: int) -> int:
        """Network calls for a sample from a chain of so many levels."""
        return min(self.sample_steps or usual, levels)
