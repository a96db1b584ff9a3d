"""Which images each step sees: a pure function of (seed, step), so there is no state to save.

The order is one of places in the set. A checkpoint keeps which image is at each place, so that a
set that has changed since then does not pass for the same.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.chain.distributions import generator_for


def changed_images(before: Int[Tensor, "n ..."], now: Int[Tensor, "m 2"]) -> str | None:
    """How a set of images, by their `ImageData.keys`, has changed; None where it has not.

    Those of before may be of names alone, (N,), as older checkpoints have them: pixels that changed
    are then not known.
    """
    knows_pixels = before.ndim == 2
    if not knows_pixels:
        now = now[:, 0]
    if torch.equal(before, now):
        return None
    old, new = _by_name(before), _by_name(now)
    added, removed = len(new.keys() - old.keys()), len(old.keys() - new.keys())
    counts = f"{added} added and {removed} removed"
    changed = 0
    if knows_pixels:
        changed = sum(old[name] != pixels for name, pixels in new.items() if name in old)
        counts = f"{added} added, {removed} removed and {changed} changed"
    if not added and not removed and not changed and len(now) == len(before):
        return f"the same {len(now)} in another order"
    return f"{counts} since then, {len(now)} now, {len(before)} before"


def _by_name(keys: Tensor) -> dict[int, list[list[int]]]:
    """What else is known of the images of each name."""
    found: dict[int, list[list[int]]] = {}
    for name, *rest in keys.view(len(keys), -1).tolist():
        found.setdefault(name, []).append(rest)
    return found


class StreamOrder:
    """Goes through an endless stream in its own order.

    Args:
        batch_size: images a step.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def batch(self, step: int, most: int | None = None) -> Int[Tensor, " batch"]:
        """Places in the stream of the images of a step, counted from 0; the first `most` of them,
        if given."""
        first = step * self.batch_size
        return torch.arange(first, first + _size(self.batch_size, most))


class DataOrder:
    """Goes through the data in a new random order every epoch; no image is left over.

    With weights an image that is to be shown w times an epoch is shown ⌊w⌋ or ⌈w⌉ times in each,
    and w times on average (systematic resampling).

    Args:
        size: number of images.
        batch_size: images a step; may exceed `size`.
        seed: decides every order.
        weights: how often to show each image, relative to the average one, (size,); once each by
            default.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, weights: Float[Tensor, " size"] | None = None
    ) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        # Where in 0..size the share of each image ends.
        self._ends = None if weights is None else weights.cumsum(0) * (size / weights.sum())
        self._cached: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    def batch(self, step: int, most: int | None = None) -> Int[Tensor, " batch"]:
        """Indices of the images of a step, counted from 0; the first `most` of them, if given."""
        first = step * self.batch_size
        last = first + _size(self.batch_size, most)
        parts = []
        while first < last:
            epoch, offset = divmod(first, self.size)
            end = min(self.size, offset + last - first)
            parts.append(self._epoch(epoch)[offset:end])
            first += end - offset
        return torch.cat(parts)

    def _epoch(self, epoch: int) -> Tensor:
        if self._cached[0] != epoch:
            generator = generator_for(self.seed, epoch)
            order = torch.randperm(self.size, generator=generator)
            if self._ends is not None:
                start = torch.rand((), generator=generator, dtype=torch.float64)
                places = torch.arange(self.size, dtype=torch.float64) + start
                shown = torch.searchsorted(self._ends, places, right=True).clamp(max=self.size - 1)
                order = shown[order]
            self._cached = epoch, order
        return self._cached[1]


def _size(batch_size: int, most: int | None) -> int:
    return batch_size if most is None else min(batch_size, most)
