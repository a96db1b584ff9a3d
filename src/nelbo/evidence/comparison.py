r"""Which of two models explains these images better? A paired test.

Two models evaluated on the same images with the same levels and noise have bounds that rise and
fall together. The differences :math:`d_i` of an image's two bounds in bits per dimension vary far
less than either, so their mean tells apart models that the two means with their own errors do not.

The p-value is that of a sign-flip test: were the models alike, each difference would be as likely
to have the opposite sign, so :math:`|\sum_i s_i d_i|` with random signs is compared with
:math:`|\sum_i d_i|` (Good 2005, "Permutation, parametric and bootstrap tests of hypotheses",
section 3.2.1). It assumes no distribution of the differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.bound import Bound, Estimate
from nelbo.errors import NelboError

# The smallest p-value that can be told is one over this.
_SIGN_FLIPS = 20_000
_VALUES_AT_ONCE = 2**22


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        difference: first − second of each image, bits/dim, (N,); negative where the first model
            explains the image better.
        mean: of the differences, with its standard error over images.
        p_value: of the two-sided sign-flip test that the models are alike.
    """

    difference: Float[Tensor, " images"]
    mean: Estimate
    p_value: float

    @property
    def first_wins(self) -> float:
        """Share of the images that the first model explains better; ties count half."""
        sign = self.difference.sign()
        return float((1 - sign).mean()) / 2


def compare(first: Bound, second: Bound, *, generator: torch.Generator | None = None) -> Comparison:
    """Compare two models by their bounds on the same images, in the same order.

    Args:
        first: the bound of one model.
        second: the bound of the other, best with the same levels and noise.
        generator: the source of the random signs.

    Raises:
        NelboError: bounds of different images, or of fewer than two.
    """
    if len(first) != len(second) or first.dims != second.dims:
        raise NelboError(
            "a paired comparison needs both bounds on the same images; found "
            f"{len(first)} images of {first.dims} dimensions and {len(second)} of {second.dims}"
        )
    if len(first) < 2:
        raise NelboError("a paired comparison needs at least 2 images")
    difference = (first.bits_per_dim.double() - second.bits_per_dim.double()).cpu()
    return Comparison(difference, Estimate.of(difference), _sign_flip_test(difference, generator))


def _sign_flip_test(
    difference: Float[Tensor, " images"], generator: torch.Generator | None
) -> float:
    observed = difference.sum().abs()
    as_extreme = 0
    at_once = max(1, _VALUES_AT_ONCE // len(difference))
    for start in range(0, _SIGN_FLIPS, at_once):
        rows = min(at_once, _SIGN_FLIPS - start)
        bits = torch.randint(2, (rows, len(difference)), generator=generator)
        total = ((2.0 * bits - 1.0).double() @ difference).abs()
        # Rounding must not make the observed signs themselves less extreme than they are.
        as_extreme += int((total >= observed * (1 - 1e-12)).sum())
    # The observed signs are one of the possible ones.
    return (as_extreme + 1) / (_SIGN_FLIPS + 1)
