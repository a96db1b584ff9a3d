"""Walks of many images in batches, each image with noise of its own, and films of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from nelbo.chain.distributions import generator_for
from nelbo.diffusion.sampler import State, Step

# Frames of a film at most: some four seconds.
_FRAMES = 48


def walk_in_batches(
    n: int,
    states: Callable[[slice, list[torch.Generator]], Iterator[State]],
    *,
    batch_size: int,
    seed: int,
    repeat: int = 1,
    watch: Callable[[int, State], None] | None = None,
) -> Iterator[Tensor]:
    """The last state of each batch of `n` walks.

    Image i draws from a generator of its own, made of (seed, i), so that it does not depend on the
    batch it is in; or, where images in a row take the same noise, of (seed, i // repeat).

    Args:
        n: how many walks.
        states: the states of some of them, given which and their generators.
        batch_size: walks at a time.
        seed: source of all noise.
        repeat: how many images in a row take the same noise.
        watch: called with the number of each state from 0.
    """
    for start in range(0, n, batch_size):
        some = slice(start, min(start + batch_size, n))
        generators = [generator_for(seed, i // repeat) for i in range(some.start, some.stop)]
        last = None
        for k, state in enumerate(states(some, generators)):
            if watch is not None:
                watch(k, state)
            last = state
        assert last is not None
        yield last.x


class Film:
    """Keeps some states of a walk: at even changes of x_t, and the last one.

    Args:
        path: of the walk.
        shows: "x_t" or "x_0", what is kept of a state.
        frames: at most how many.
    """

    def __init__(self, path: list[Step], shows: str, frames: int = _FRAMES) -> None:
        # x_t = cos φ x_0 + sin φ ε: even in φ is even to the eye.
        angles = torch.tensor([level.angle for level, _ in path], dtype=torch.float64)
        targets = torch.linspace(float(angles[0]), 0.0, frames, dtype=torch.float64)
        nearest = (angles[None] - targets[:, None]).abs().argmin(1)
        self._kept = {*nearest.tolist(), len(path) - 1}
        self._shows = shows
        self._batches: dict[int, list[Tensor]] = {k: [] for k in sorted(self._kept)}

    def watch(self, k: int, state: State) -> None:
        """Keep state k if it is one to show."""
        if k in self._kept:
            self._batches[k].append((state.x if self._shows == "x_t" else state.x_0).cpu())

    def frames(self) -> Iterator[Tensor]:
        """What was kept, of all batches, (N, C, H, W) a frame."""
        for batches in self._batches.values():
            yield torch.cat(batches)
