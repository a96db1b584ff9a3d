r"""How many draws of each kind an error takes (Neyman 1934).

With R draws of x_1, or of z_0 and z_1, and K of the other levels, the bound of an image has the
Monte Carlo variance :math:`A/R + C/K`. The fewest calls R + K that make it V have

.. math::
    R = \sqrt A\, (\sqrt A + \sqrt C) / V, \qquad K = \sqrt C\, (\sqrt A + \sqrt C) / V,

so that R : K is :math:`\sqrt A : \sqrt C` whatever their number. A and C are measured on bounds
whose numbers of draws are known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nelbo.chain.bound import Bound
from nelbo.chain.variances import variance_over_images

# Draws are planned for a little less than the target. Where that was too few and single draws rule
# the error, at most this share is added to them.
MARGIN = 0.92
ADDED_SHARE = 0.5
# Errors are estimated from at least this many pairs of draws.
_LEAST_PAIRS = 32


@dataclass(frozen=True)
class Draws:
    """Draws an image: of level 1, and of the others."""

    first: int
    levels: int

    @classmethod
    def least(cls, images: int, T: int) -> Draws:
        """The fewest for the error of a mean over images: 32 pairs of each kind."""
        pairs = math.ceil(_LEAST_PAIRS / images)
        return cls(1 + pairs, 0 if T == 1 else 2 * max(1, pairs))

    @property
    def calls(self) -> int:
        """Network evaluations."""
        return self.first + self.levels

    def grown_to(self, calls: float) -> Draws:
        """In the same proportion, but with about `calls` calls in all; never fewer than now."""
        factor = max(1.0, calls / self.calls)
        return Draws(math.ceil(self.first * factor), math.ceil(self.levels * factor))

    def more(self, excess: float) -> Draws:
        """The number to add to a count, to reduce its error by the factor `excess`."""
        share = max(0.0, (excess / MARGIN) ** 2 - 1)
        # Two draws at least, of which the error is known.
        first, levels = (max(2, math.ceil(share * count)) for count in (self.first, self.levels))
        return Draws(first, levels if self.levels else 0)


@dataclass(frozen=True)
class DrawSpread:
    """What a single draw of each kind leaves unknown of the bound of an image.

    Attributes:
        first: √A, nats, of a draw of x_1 or of z_0 and z_1.
        levels: √C, nats, of a draw of another level.
    """

    first: float
    levels: float

    @classmethod
    def of(cls, bounds: Sequence[Bound]) -> DrawSpread:
        """From the averages of A and C over the images of bounds, which count by their draws."""
        sizes = [float(bound.calls.sum()) for bound in bounds]
        first = levels = 0.0
        for bound, size in zip(bounds, sizes, strict=True):
            share = size / sum(sizes)
            drawn = int(bound.reconstruction_calls[0]), int(bound.level_calls[0])
            first += share * variance_over_images(bound.first_variance) * len(bound) * drawn[0]
            score_matching = bound.mean().score_matching.monte_carlo_error
            levels += share * score_matching**2 * len(bound) * drawn[1]
        return cls(math.sqrt(first), math.sqrt(levels))

    @property
    def share(self) -> float:
        """The part of draws that is of level 1; a half where neither is known to vary."""
        total = self.first + self.levels
        return self.first / total if total > 0 and math.isfinite(total) else 0.5

    def calls(self, variance: float) -> float:
        """R + K of the least draws for a variance, nats²."""
        return (self.first + self.levels) ** 2 / variance

    def draws(self, variance: float, least: Draws) -> Draws:
        """The fewest draws of an image for a variance of its bound, nats², and at least some."""
        scale = (self.first + self.levels) / variance
        return Draws(
            max(least.first, math.ceil(self.first * scale)),
            max(least.levels, math.ceil(self.levels * scale)),
        )
