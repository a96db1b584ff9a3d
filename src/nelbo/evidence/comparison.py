r"""Which of two models explains these images better? A paired test of the mean difference.

Two models evaluated on the same images with the same levels and noise have bounds that rise and
fall together. The differences :math:`d_i` of an image's two bounds in bits per dimension vary far
less than either, so their mean distinguishes models that the two means with their own errors do
not.

The p-value is of the hypothesis that the mean difference over all images, of which these are a
sample, is zero. It comes from the studentised bootstrap (Efron & Tibshirani 1993, "An introduction
to the bootstrap", sections 12.5 and 16.4): :math:`t = \bar d / (s / \sqrt n)` is compared with
:math:`t^* = (\bar d^* - \bar d) / (s^* / \sqrt n)` of resampled differences,

.. math::
    p = \max\big(2 \min(P[t^* \le t],\, P[t^* \ge t]),\; P[|t^*| \ge |t|]\big).

The two tails apart follow a skewed distribution of differences, both together a heavy-tailed one;
the larger p holds its level in either case (`docs/uses-of-the-evidence.md` has measurements). The
Monte Carlo error of each image's bounds is part of how the differences vary, and so of the test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.estimate import Estimate
from nelbo.chain.evidence import Evidence, check_bits

LEVEL = 0.05
# No p-value is smaller than one over one more than this.
_RESAMPLES = 20_000
_VALUES_AT_ONCE = 2**22
# With fewer images, resamples that repeat one image are too many for a p-value below 0.05.
_LEAST_IMAGES = 4
# The test follows skewness to first order, in skewness / √n, up to here.
_SKEWED = 0.3


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        difference: first − second of each image, bits/dim, (N,); negative where the first model
            explains the image better.
        mean: of the differences, with its standard error over images.
        p_value: of the two-sided studentised bootstrap test that the mean difference is zero.
    """

    difference: Float[Tensor, " images"]
    mean: Estimate
    p_value: float

    @property
    def first_wins(self) -> float:
        """Share of the images that the first model explains better; ties count half."""
        sign = self.difference.sign()
        return float((1 - sign).mean()) / 2

    @property
    def skewness(self) -> float:
        """Third standardised moment of the differences; 0 where they are all equal."""
        centred = self.difference - self.difference.mean()
        variance = centred.square().mean().item()
        return centred.pow(3).mean().item() / variance**1.5 if variance > 0 else 0.0

    def warnings(self, names: Sequence[str] | None = None) -> list[str]:
        """Why the p-value may be wrong, a sentence each; see `Estimate.warnings`."""
        n, found = len(self.difference), self.mean.warnings(names)
        if n < _LEAST_IMAGES:
            found.append(
                f"no difference of {n} images, however large, has p < {LEVEL}: compare on at least "
                f"{_LEAST_IMAGES}, better on 20"
            )
        if abs(self.skewness) / math.sqrt(n) > _SKEWED:
            found.append(
                f"the differences have a skewness of {self.skewness:.1f}, much for {n} images: a "
                "few of them decide, and equal models come out different more often than the "
                "p-value states; compare on more images"
            )
        return found


def compare(
    first: Evidence, second: Evidence, *, generator: torch.Generator | None = None
) -> Comparison:
    """Compare two models by their bounds on the same images, in the same order.

    Args:
        first: the bound of one model.
        second: the bound of the other, best with the same levels and noise.
        generator: the source of the resamples.

    Raises:
        NelboError: bounds of different images, of fewer than two, or of a model without any.
    """
    check_bits(first=first, second=second)
    if len(first) != len(second) or first.dims != second.dims:
        raise NelboError(
            "a paired comparison needs both bounds on the same images; found "
            f"{len(first)} images of {first.dims} dimensions and {len(second)} of {second.dims}"
        )
    if len(first) < 2:
        raise NelboError("a paired comparison needs at least 2 images")
    difference = (first.bits_per_dim.double() - second.bits_per_dim.double()).detach().cpu()
    return Comparison(difference, Estimate.of(difference), mean_test(difference, generator))


def mean_test(values: Float[Tensor, " images"], generator: torch.Generator | None = None) -> float:
    """The p-value of the studentised bootstrap test that values have mean zero, (n,).

    Args:
        values: one an image, at least 2; the p-value of values that are not finite is nan.
        generator: the source of the resamples.
    """
    values = values.double()
    n, mean = len(values), values.mean()
    spread = values.std()
    if not spread.isfinite():
        return math.nan
    if not spread > 1e-12 * mean.abs():
        # Equal values: as likely as n equal signs of a symmetric distribution.
        return 1.0 if mean == 0 else min(1.0, max(2.0 ** (1 - n), 1 / (_RESAMPLES + 1)))
    centred = (values - mean) / spread
    t = (mean / spread).item()
    below = above = beyond = 0
    rows = max(1, _VALUES_AT_ONCE // n)
    for start in range(0, _RESAMPLES, rows):
        size = (min(rows, _RESAMPLES - start), n)
        drawn = centred[torch.randint(n, size, generator=generator, device="cpu")]
        average = drawn.mean(1)
        # Of a resample without spread t* is infinite, not undefined.
        resampled = average / drawn.std(1).clamp(min=1e-300)
        below += int((resampled <= t).sum())
        above += int((resampled >= t).sum())
        beyond += int((resampled.abs() >= abs(t)).sum())
    # The observed sample is one of the possible ones.
    lower, upper, both = ((count + 1) / (_RESAMPLES + 1) for count in (below, above, beyond))
    return min(1.0, max(2 * min(lower, upper), both))
