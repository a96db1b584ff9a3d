r"""What x_0 is: integer pixel levels with probabilities, or real numbers with a density.

Both answer the same questions, so that nothing asks which of the two a model has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Integer, Num, UInt8
from torch import Tensor
from torch.distributions import Normal

from nelbo.base.arguments import check_count, check_kind
from nelbo.base.errors import NelboError
from nelbo.chain.distributions import DiscretizedNormal, from_levels, normal, to_levels

# How many levels the pixels of real numbers are shown with.
_SHOWN_LEVELS = 256
_FROM_NUMPY = "torch.from_numpy makes one of an array"


class _Shown:
    """The way between a screen and what the values of an example are."""

    @property
    def shown_levels(self) -> int:
        """How many levels the pixels of a picture have."""
        return _SHOWN_LEVELS

    def nearest(self, pictures: Num[Tensor, "..."]) -> UInt8[Tensor, "..."]:
        """The level that is nearest to each value of pictures 0..255."""
        return to_levels(pictures.float() * (2 / 255) - 1, self.shown_levels).byte()

    def shown(self, x: Float[Tensor, "..."]) -> UInt8[Tensor, "..."]:
        """Samples as levels, on the CPU; what is no number is in the middle."""
        return to_levels(torch.nan_to_num(x), self.shown_levels).byte().cpu()


@dataclass(frozen=True)
class Pixels(_Shown):
    """Integer levels k in 0..levels−1, given to networks as x = 2k/(levels−1) − 1.

    p(x_0|x_1) is a normal rounded to these levels, so that the bound is one on −log₂ P(x) and
    compares with published bits/dim. 256 levels are the convention of Ho et al. 2020.
    """

    is_density: ClassVar[bool] = False

    levels: int = 256

    def __post_init__(self) -> None:
        check_count("the number of pixel levels", self.levels, least=2)

    @property
    def shown_levels(self) -> int:
        """How many levels the pixels of a picture have."""
        return self.levels

    def to_network(self, k: Integer[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Network space of integer levels, float32.

        Raises:
            NelboError: a level outside 0..levels−1, or values that are no integers.
        """
        check_kind("k", k, Tensor, f"a tensor of integers; {_FROM_NUMPY}")
        if k.is_floating_point():
            raise NelboError(
                f"pixel levels are integers in 0..{self.levels - 1}, found {k.dtype}: round images "
                f"in [0, 1] times {self.levels - 1} to an integer type; those in [-1, 1] are in "
                "network space already"
            )
        low, high = (int(k.min()), int(k.max())) if k.numel() else (0, 0)
        if low < 0 or high >= self.levels:
            raise NelboError(
                f"pixel levels must lie in 0..{self.levels - 1}, found {low}..{high}; "
                "give the number of pixel levels of this data"
            )
        return from_levels(k, self.levels)

    def to_levels(self, x: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The nearest integer level of each value, int64; values outside [−1, 1] are clamped."""
        check_kind("x", x, Tensor, f"a tensor of values in [-1, 1]; {_FROM_NUMPY}")
        return to_levels(x, self.levels)

    def likelihood(self, mean: Tensor, stddev: Tensor) -> DiscretizedNormal:
        """The normal, rounded to the levels."""
        return DiscretizedNormal(mean, stddev, self.levels)

    def check(self, x: Float[Tensor, "..."]) -> None:
        """Raise `NelboError` unless every value is one of the levels."""
        k = (x.double() + 1.0) * ((self.levels - 1) / 2)
        off = (k - k.round().clamp(0, self.levels - 1)).abs().max().item()
        if not off < 0.01:
            _check_finite(x)
            raise NelboError(
                f"images are not on the model's {self.levels} pixel levels between -1 and 1: "
                f"values from {x.min().item():.4g} to {x.max().item():.4g}, up to {off:.3g} pixel "
                "levels off; use to_network on pixel levels, or declare how many this data has"
            )

    def check_levels(self, levels: int, source: str) -> None:
        """Raise `NelboError` unless images of `source` with this many levels have a probability."""
        if levels != self.levels:
            raise NelboError(f"{source} has {levels} pixel levels, the model has {self.levels}")


@dataclass(frozen=True)
class Continuous(_Shown):
    """Real numbers: p(x_0|x_1) is a normal, and the bound is one on a log-density."""

    is_density: ClassVar[bool] = True

    def to_network(self, k: Integer[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Refuse pixel levels, which have no density.

        Raises:
            NelboError: always.
        """
        raise NelboError("the model has no pixel levels, so it gives images no probability")

    def to_levels(self, x: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The nearest of 256 levels between −1 and 1 of each value, to be looked at; int64."""
        check_kind("x", x, Tensor, f"a tensor of values in [-1, 1]; {_FROM_NUMPY}")
        return to_levels(x, self.shown_levels)

    def likelihood(self, mean: Tensor, stddev: Tensor) -> Normal:
        """The normal itself."""
        return normal(mean, stddev)

    def check(self, x: Float[Tensor, "..."]) -> None:
        """Raise `NelboError` where a value is not finite."""
        _check_finite(x)

    def check_levels(self, levels: int, source: str) -> None:
        """Raise `NelboError`: pixel levels have no density."""
        raise NelboError("the model has no pixel levels, so it gives images no probability")


def _check_finite(x: Tensor) -> None:
    if lost := int((~x.isfinite()).sum()):
        raise NelboError(f"data holds {lost:,} values that are not finite")


DataSpace = Pixels | Continuous
