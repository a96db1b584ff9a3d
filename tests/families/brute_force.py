"""Every image of a few pixels, for sums that must be one."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from nelbo import Pixels
from nelbo.families import Family


def every_image(shape: tuple[int, int, int], levels: int) -> Tensor:
    """All images of `levels` pixel levels, in network space."""
    channels, height, width = shape
    values = itertools.product(range(levels), repeat=channels * height * width)
    return Pixels(levels).to_network(torch.tensor(list(values)).view(-1, *shape))


def total_probability(family: Family, levels: int) -> float:
    """The sum of P(x) over all images, of an exact family."""
    with torch.no_grad():
        evidence = family.evidence(every_image(family.image_shape, levels))
    assert evidence.kind == "exact"
    return float((-evidence.total.double()).exp().sum())
