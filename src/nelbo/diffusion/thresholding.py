"""Keeping the predicted data in the range of data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.base.arguments import check_number, check_numbers
from nelbo.base.errors import NelboError


@dataclass(frozen=True)
class StaticThreshold:
    """Clip to [−range, range]; `clip_sample` is the one with range 1.

    Raises:
        NelboError: a range that is no number or not positive.
    """

    range: float = 1.0

    def __post_init__(self) -> None:
        check_number("range", self.range)
        if not self.range > 0:
            raise NelboError(f"a threshold clips to a positive range, got {self.range}")

    def __call__(self, x_0: Tensor) -> Tensor:
        """x_0 within the range, (B, C, H, W)."""
        return x_0.clamp(-self.range, self.range)


@dataclass(frozen=True)
class DynamicThreshold:
    r"""Clip to a quantile of the example and rescale (Saharia et al. 2022, section 2.3).

    .. math::
        s = \min(\max(Q_p(|\hat x_0|), 1), s_{\max}), \qquad
        \hat x_0 \leftarrow \mathrm{clip}(\hat x_0, -s, s) / s

    Large guidance pushes pixels out of [−1, 1]; this brings them back without saturating them.

    Args:
        ratio: p, the share of an example's values that s covers.
        max_value: s_max; 1 is the static threshold.

    Raises:
        NelboError: what is no number, a ratio outside 0..1, or a maximum below 1.
    """

    ratio: float = 0.995
    max_value: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(ratio=self.ratio, max_value=self.max_value)
        if not 0 <= self.ratio <= 1:
            raise NelboError(f"the ratio of a dynamic threshold lies in 0..1, got {self.ratio}")
        if not self.max_value >= 1:
            raise NelboError(
                f"the largest value of a dynamic threshold is at least 1, got {self.max_value}"
            )

    def __call__(self, x_0: Tensor) -> Tensor:
        """x_0 within [−1, 1], (B, C, H, W)."""
        # torch has no quantile in half precision.
        wide = x_0.to(torch.promote_types(x_0.dtype, torch.float32))
        s = torch.quantile(wide.abs().flatten(1), self.ratio, dim=1).clamp(1.0, self.max_value)
        s = s.view(-1, *[1] * (x_0.ndim - 1))
        return (wide.clamp(-s, s) / s).to(x_0.dtype)


Threshold = StaticThreshold | DynamicThreshold
