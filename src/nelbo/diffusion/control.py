"""A chain under spatial control: what is asked for, as the network reads it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.base.arguments import described
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.networks.control import AnyControl, Control, Strength

# Levels T · (1 − end) that are whole but for rounding are whole.
_ROUNDING = 1e-9
# Values of a control that are farther from zero are no shares: pixel levels, most likely.
_LARGEST = 2.0


def under_control(
    chain: Any, n: int, control: AnyControl | None, condition: Condition | None = None
) -> tuple[Any, Condition | None]:
    """The chain with its ControlNets as strong as is asked for, and the condition with the control.

    Args:
        chain: the diffusion model.
        n: how many states.
        control: for each ControlNet, or for the only one; None leaves both as they are.
        condition: what else the states are conditioned on.

    Raises:
        NelboError: a model without a ControlNet, another number of controls than of ControlNets, or
            a control of another shape or number.
    """
    if control is None:
        return chain, condition
    given = list(control) if isinstance(control, Sequence) else [control]
    asked = [each if isinstance(each, Control) else Control(each) for each in given]
    network, channels = chain.network, chain.control_channels
    if not channels:
        raise NelboError("a control was given to a model without a ControlNet")
    if condition is not None and condition.control is not None:
        raise NelboError("the condition has a control already: give one or the other")
    if len(asked) != len(channels):
        raise NelboError(
            f"controls were given for {len(asked)} ControlNets, expected one for each of "
            f"{len(channels)}"
        )
    strengths = [
        _strength(chain, each, own) for each, own in zip(asked, network.strengths, strict=True)
    ]
    if strengths != list(network.strengths):
        chain = chain.replace(network=network.acting(strengths))
    _, *size = chain.control_shape
    images = [
        fitting_control(each.image, (count, *size), n, exact=chain.shape is None)
        for each, count in zip(asked, channels, strict=True)
    ]
    return chain, replace(condition or Condition(), control=torch.cat(images, 1))


def fitting_control(image: Tensor, shape: Sequence[int], n: int, *, exact: bool = False) -> Tensor:
    """A control as a ControlNet reads it, (n, C, H, W).

    Args:
        image: (n, C, H, W), or (1, C, H, W) for all.
        shape: (C, H, W) that it is to have.
        n: how many.
        exact: leave its height and width as they are.

    Raises:
        NelboError: another kind of value, number or channels; no pixels, or some that are not
            finite.
    """
    if not isinstance(image, Tensor) or image.ndim != 4 or 0 in image.shape[2:]:
        found = tuple(image.shape) if isinstance(image, Tensor) else described(image)
        raise NelboError(
            f"control is {found}, expected a tensor (n, C, H, W), or (1, C, H, W) for all"
        )
    if len(image) not in (1, n):
        raise NelboError(f"control has a batch of {len(image)}, expected {n} or 1")
    channels, height, width = shape
    if image.shape[1] != channels:
        raise NelboError(
            f"control has {image.shape[1]} channels, the ControlNet reads {channels}: give "
            + ("1 channel of grey" if channels == 1 else f"{channels}, a grey one repeated")
        )
    if not image.isfinite().all():
        raise NelboError("control has values that are not finite, expected numbers in [0, 1]")
    low, high = (float(end) for end in image.aminmax())
    # Some ControlNets mark pixels to paint by −1, and scaling may go a little beyond the ends.
    if max(-low, high) > _LARGEST:
        raise NelboError(
            f"control has values from {low:g} to {high:g}, expected numbers in [0, 1]: divide "
            "pixel levels 0..255 by 255"
        )
    if not exact and tuple(image.shape[2:]) != (height, width):
        size = "×".join(map(str, image.shape[2:]))
        warnings.warn(
            f"the control is {size}, the model takes {height}×{width} (height × width): cut in "
            "the middle and resized",
            stacklevel=4,
        )
        image = _resized(image, height, width)
    return image.expand(n, *image.shape[1:])


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """Cropped at the centre to the proportions of a size, and resized to it."""
    rows, columns = image.shape[2:]
    scale = min(rows / height, columns / width)
    high, wide = max(1, round(scale * height)), max(1, round(scale * width))
    top, left = (rows - high) // 2, (columns - wide) // 2
    cut = image[:, :, top : top + high, left : left + wide].float()
    return F.interpolate(cut, (height, width), mode="bilinear", antialias=True).to(image.dtype)


def _strength(chain: Any, control: Control, own: Strength) -> Strength:
    scale = own.scale if control.scale is None else control.scale
    times = own.times if (control.start, control.end) == (0.0, 1.0) else _times(chain, control)
    return Strength(scale, times, control.guess or own.guess)


def _times(chain: Any, control: Control) -> tuple[float, float]:
    """The first and last time of the calls of the network at the levels t of T where
    start ≤ 1 − t/T < end, from half way to the levels beyond."""
    T = chain.num_levels
    lowest = math.floor(T * (1 - control.end) + _ROUNDING) + 1
    highest = math.floor(T * (1 - control.start) + _ROUNDING)
    if lowest > highest:
        raise NelboError(
            f"no level of the chain of {T} lies between the start {control.start:g} and the end "
            f"{control.end:g} of the control: give more of the way"
        )
    at = chain.schedule.at_level
    low = -math.inf if lowest == 1 else chain.call_time(at(lowest - 0.5))
    high = math.inf if highest == T else chain.call_time(at(highest + 0.5))
    return low, high
