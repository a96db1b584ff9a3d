"""Which images each step sees: a pure function of (seed, step), so there is no state to save.

The order is one of places in the set. A checkpoint keeps which image is at each place, so that a
set that has changed since then does not pass for the same.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from nelbo.distributions import generator_for


def changed_images(before: Int[Tensor, " n"], now: Int[Tensor, " m"]) -> str | None:
    """How a set of images, by their `ImageData.keys`, has changed; None where it has not."""
    if torch.equal(before, now):
        return None
    old, new = set(before.tolist()), set(now.tolist())
    added, removed = len(new - old), len(old - new)
    if not added and not removed and len(now) == len(before):
        return f"the same {len(now)} in another order"
    return f"{added} added and {removed} removed since then, {len(now)} now, {len(before)} before"


class StreamOrder:
    """Goes through an endless stream in its own order.

    Args:
        batch_size: images a step.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def batch(self, step: int) -> Int[Tensor, " batch_size"]:
        """Places in the stream of the images of a step, counted from 0."""
        return torch.arange(step * self.batch_size, (step + 1) * self.batch_size)


class DataOrder:
    """Goes through the data in a new random order every epoch; no image is left over.

    Args:
        size: number of images.
        batch_size: images a step; may exceed `size`.
        seed: decides every order.
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._cached: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    def batch(self, step: int) -> Int[Tensor, " batch_size"]:
        """Indices of the images of a step, counted from 0."""
        first = step * self.batch_size
        last = first + self.batch_size
        parts = []
        while first < last:
            epoch, offset = divmod(first, self.size)
            end = min(self.size, offset + last - first)
            parts.append(self._epoch(epoch)[offset:end])
            first += end - offset
        return torch.cat(parts)

    def _epoch(self, epoch: int) -> Tensor:
        if self._cached[0] != epoch:
            order = torch.randperm(self.size, generator=generator_for(self.seed, epoch))
            self._cached = epoch, order
        return self._cached[1]
