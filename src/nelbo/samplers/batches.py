"""Walks of many images in batches, each image with noise of its own, and films of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from nelbo.base.console import counting_progress
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import generator_for
from nelbo.diffusion.sampler import Sampler, State, Step

# Frames of a film at most: some four seconds.
_FRAMES = 48


def sample_in_batches(
    model: Any,
    sampler: Sampler,
    n: int,
    *,
    condition: Condition | None = None,
    batch_size: int = 64,
    seed: int = 0,
    repeat: int = 1,
    watch: Callable[[int, State], None] | None = None,
) -> Tensor:
    """The last states of `n` samples, (n, C, H, W), behind a progress bar.

    Args:
        model: what is walked, guided where it is to be.
        sampler: how to walk it.
        n: how many samples.
        condition: of each sample.
        batch_size: as `walk_in_batches`.
        seed: as `walk_in_batches`.
        repeat: as `walk_in_batches`.
        watch: as `walk_in_batches`.
    """

    def states(some: slice, generators: list[torch.Generator]) -> Iterator[State]:
        given = None if condition is None else condition[some].to(model.device)
        x_T = model.start(len(generators), None, generators)
        return sampler.iterate(model, x_T, condition=given, generator=generators)

    return walk_in_batches(
        f"Sampling {n} image{'s' * (n > 1)}",
        n,
        states,
        len(sampler.path(model.schedule)),
        batch_size=batch_size,
        seed=seed,
        repeat=repeat,
        watch=watch,
    )


def walk_in_batches(
    description: str,
    n: int,
    states: Callable[[slice, list[torch.Generator]], Iterator[State]],
    num_states: int,
    *,
    batch_size: int,
    seed: int,
    repeat: int = 1,
    watch: Callable[[int, State], None] | None = None,
) -> Tensor:
    """The last states of `n` walks, (n, C, H, W), behind a progress bar.

    Image i draws from a generator of its own, made of (seed, i), so that it does not depend on the
    batch it is in; or, where images in a row take the same noise, of (seed, i // repeat).

    Args:
        description: the text of the progress bar.
        n: how many walks.
        states: the states of some of them, given which and their generators.
        num_states: how many there are.
        batch_size: walks at a time.
        seed: source of all noise.
        repeat: how many images in a row take the same noise.
        watch: called with the number of each state from 0.
    """
    last = []
    with counting_progress() as progress:
        task = progress.add_task(description, total=num_states * -(-n // batch_size), status="")
        for start in range(0, n, batch_size):
            some = slice(start, min(start + batch_size, n))
            generators = [generator_for(seed, i // repeat) for i in range(some.start, some.stop)]
            state = None
            for k, state in enumerate(states(some, generators)):
                if watch is not None:
                    watch(k, state)
                progress.advance(task)
            assert state is not None
            last.append(state.x)
    return torch.cat(last)


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
