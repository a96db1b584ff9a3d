r"""A dataset mean with its error, the interval that the error makes, and when not to trust it.

Everything that prints a ± or an interval goes through `Estimate`. With n images of mean
:math:`\bar x` and standard deviation s the error of the mean is :math:`s/\sqrt n` and, for data
that are not far from normal, the interval

.. math::
    \bar x \pm t_{n-1,\,1-\alpha/2}\; s / \sqrt n

holds the mean of the population in a share :math:`1 - \alpha` of all repetitions (Student 1908).
The quantile of the normal distribution in place of Student's is too short for few images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

CONFIDENCE = 0.95
# Fewer images than these get a warning beside every interval.
FEW_IMAGES = 20
# So does an image, or a single draw, that alone has more than this share of the variance.
DOMINANT_SHARE = 0.2
# Below this a mean is shown by a power of ten.
_SMALL = 1e-3
# Both are estimates: a part that is larger than the whole by more than this is a few images' doing.
_BEYOND_CHANCE = 1.5


@dataclass(frozen=True)
class Estimate:
    """A dataset mean with its standard error and the parts of that; see `docs/evidence.md`.

    Print `standard_error` as the one error of the mean and the parts as parts of it: their squares
    add up to its square. `interval` turns it into an interval, `warnings` notes where neither may
    be trusted.

    Attributes:
        mean: over the examples.
        standard_error: of the mean of the population that the examples are a sample of, the
            spread over examples divided by √n; nan for one example. The Monte Carlo error of each
            example adds to that spread, so this error holds both parts.
        monte_carlo_error: the part of it that is an error of the mean over these very examples,
            from the noise and the levels that were drawn: what more of them would shrink. Zero
            where nothing was drawn, nan where there are too few draws.
        examples: how many there are; 0 where that is not known.
        largest: the place of the example that is farthest from the mean, −1 where not known.
        largest_share: what that example has of the variance over examples, in 0..1.
        largest_draw_share: what a single draw, or pair of draws, has of the Monte Carlo variance.
    """

    mean: float
    standard_error: float
    monte_carlo_error: float = math.nan
    examples: int = 0
    largest: int = -1
    largest_share: float = math.nan
    largest_draw_share: float = math.nan

    @classmethod
    def of(
        cls,
        values: Float[Tensor, " batch"],
        variance: float = math.nan,
        largest_draw_share: float = math.nan,
    ) -> Estimate:
        """The mean of `values`, given the Monte Carlo variance of that mean."""
        values = values.detach().to("cpu", torch.float64)
        n, mean = len(values), values.mean()
        far = (values - mean).square()
        total = far.sum().item()
        largest = int(far.argmax()) if total > 0 and math.isfinite(total) else -1
        return cls(
            mean=mean.item(),
            standard_error=values.std().item() / math.sqrt(n) if n > 1 else math.nan,
            monte_carlo_error=math.sqrt(variance),
            examples=n,
            largest=largest,
            largest_share=far[largest].item() / total if largest >= 0 else math.nan,
            largest_draw_share=largest_draw_share,
        )

    @property
    def image_error(self) -> float:
        """The part of `standard_error` that is no Monte Carlo error: √(total² − Monte Carlo²).

        Zero where the Monte Carlo error is as large as the whole; nan where either is not known.
        """
        rest = self.standard_error**2 - self.monte_carlo_error**2
        return rest if math.isnan(rest) else math.sqrt(max(0.0, rest))

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """The ends of Student's interval for the mean of the population; nan where not known."""
        half = self.standard_error * t_quantile(0.5 + confidence / 2, self.examples - 1)
        return self.mean - half, self.mean + half

    def warnings(self, names: Sequence[str] | None = None) -> list[str]:
        """Why the error may be far from the truth, a sentence each; none where nothing is wrong.

        Args:
            names: of the examples, to name the one that dominates.
        """
        found = []
        if 0 < self.examples < FEW_IMAGES:
            count = "1 image is" if self.examples == 1 else f"{self.examples} images are"
            found.append(
                f"{count} few: evaluate at least {FEW_IMAGES} for an error and an interval that "
                "can be relied on"
            )
        if self.monte_carlo_error > _BEYOND_CHANCE * self.standard_error:
            found.append(
                "the Monte Carlo part alone is "
                f"{self.monte_carlo_error / max(self.standard_error, 1e-300):.2g} times the whole "
                "error, which is too small: evaluate more images or levels"
            )
        if self.largest_share > DOMINANT_SHARE:
            known = names is not None and 0 <= self.largest < len(names)
            which = f"the image {names[self.largest]}" if known and names else "one image"
            found.append(
                f"{which} has {self.largest_share:.0%} of the variance over images, so that the "
                "error may be several times too small: evaluate more images, and look at that one"
            )
        if self.largest_draw_share > DOMINANT_SHARE:
            found.append(
                f"a single draw has {self.largest_draw_share:.0%} of the Monte Carlo variance, so "
                "that the Monte Carlo error may be several times too small: ask for a smaller "
                "error, or for all levels"
            )
        return found

    def __repr__(self) -> str:
        """As 1.737 ± 0.014 or (6.55 ± 0.32)e-07, with two digits of the error."""
        error = self.standard_error
        if not (math.isfinite(self.mean) and math.isfinite(error) and error > 0):
            return f"{self.mean:.4g}"
        if (size := max(abs(self.mean), error)) < _SMALL:
            power = math.floor(math.log10(size))
            return f"({self * 10.0**-power})e{power:03d}"
        decimals = max(0, 1 - math.floor(math.log10(error)))
        return f"{self.mean:.{decimals}f} ± {error:.{decimals}f}"

    def __mul__(self, factor: float) -> Estimate:
        size = abs(factor)
        return replace(
            self,
            mean=self.mean * factor,
            standard_error=self.standard_error * size,
            monte_carlo_error=self.monte_carlo_error * size,
        )


def share_interval(count: int, of: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    r"""Wilson's interval for a share of which `count` of `of` independent examples were counted.

    .. math::
        \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4n^2}}{1 + z^2 / n}

    (Wilson 1927). Unlike p ± z √(p (1 − p) / n) it is not empty where none or all were counted.
    """
    z = t_quantile(0.5 + confidence / 2, math.inf)
    p, scale = count / of, 1 + z**2 / of
    centre, half = p + z**2 / (2 * of), z * math.sqrt(p * (1 - p) / of + (z / (2 * of)) ** 2)
    return (centre - half) / scale, (centre + half) / scale


def t_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t, of the normal distribution for infinitely many degrees.

    Args:
        probability: below the quantile, in (0, 1); 0.975 for an interval of 95%.
        freedom: degrees of freedom; fewer than one have no quantile, which is nan.
    """
    if not freedom >= 1:
        return math.nan
    # A second of imports that most commands do without.
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if math.isinf(freedom) else stdtrit(freedom, probability))
