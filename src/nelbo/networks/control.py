r"""How strongly a ControlNet acts, and at which levels of the chain.

A `Control` is what a user asks for: a picture with a scale and the part of the chain to act in. A
`Strength` is what a network reads of it: the scale at the times that the network is called with.

In guess mode the features of finer resolutions count less, from 0.1 at the first to 1 in the
middle, and guidance leads away from the model without the control, so that a picture can be drawn
from the control without any prompt (Zhang et al. 2023, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.base.arguments import check_number, check_numbers
from nelbo.base.errors import NelboError

# What the features of the first resolution count in guess mode.
_FIRST_IN_GUESS_MODE = 0.1


@dataclass(frozen=True)
class Control:
    """A spatial control, and how it is to act.

    Args:
        image: for one ControlNet, (n, C, H, W) or (1, C, H, W) for all, usually in [0, 1]; what is
            of another size is cropped at the centre to the proportions of the model, and resized.
        scale: s, what the residuals are multiplied by; None is the scale of the model, usually 1.
        start: where on the way from noise to data it begins to act: 0 is the last level T, and 0.5
            half of the levels further down.
        end: where it ceases to act; 1 is the data.
        guess: guess mode, see `nelbo.networks.control`.

    Raises:
        NelboError: a scale that is no finite number, or a part of the chain that is empty.
    """

    image: Tensor
    scale: float | None = None
    start: float = 0.0
    end: float = 1.0
    guess: bool = False

    def __post_init__(self) -> None:
        if self.scale is not None:
            _check_scale(self.scale)
        check_numbers(start=self.start, end=self.end)
        if not 0 <= self.start < self.end <= 1:
            raise NelboError(
                "a control acts from start to end of the way from noise to data, with "
                f"0 <= start < end <= 1, got {self.start:g} and {self.end:g}"
            )


# What `sample(control=...)` takes: for several ControlNets one each, in their order.
AnyControl = Tensor | Control | Sequence[Tensor | Control]


@dataclass(frozen=True)
class Strength:
    """How a ControlNet acts.

    Attributes:
        scale: what its residuals are multiplied by.
        times: the first and last of the times that the network is called with to act at; None is
            all of them.
        guess: whether in guess mode.

    Raises:
        NelboError: a scale that is no finite number.
    """

    scale: float = 1.0
    times: tuple[float, float] | None = None
    guess: bool = False

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def at(self, network_time: Tensor) -> float | Tensor | None:
        """What the residuals of each example are multiplied by; None where all are left out."""
        if self.scale == 0:
            return None
        if self.times is None:  # no device waits for the answer
            return self.scale
        acts = (network_time >= self.times[0]) & (network_time <= self.times[1])
        return (self.scale * acts).view(-1, 1, 1, 1) if acts.any() else None

    def shares(self, count: int) -> list[float]:
        """What each of `count` residuals counts, from the highest resolution to the middle."""
        if not self.guess:
            return [1.0] * count
        return torch.logspace(math.log10(_FIRST_IN_GUESS_MODE), 0.0, count).tolist()

    def __str__(self) -> str:
        return f"{self.scale:g}, {self.times}{', guess' if self.guess else ''}"


def _check_scale(scale: float) -> None:
    check_number("scale", scale)
    if not math.isfinite(scale):
        raise NelboError(f"the scale of a control must be a finite number, got {scale}")
