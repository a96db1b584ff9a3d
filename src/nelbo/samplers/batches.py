"""Many images in batches, each image with noise of its own, and films of their walks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nelbo.base.console import Counting
from nelbo.base.errors import NelboError
from nelbo.base.memory import available_memory
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import generator_for
from nelbo.chain.model import Model
from nelbo.diffusion.sampler import Sampler, State, Step
from nelbo.networks.control import Control
from nelbo.samplers.watched import Watched

# Frames of a film at most: some four seconds.
_FRAMES = 48


def sample_in_batches(
    model: Model,
    sampler: Sampler | None,
    n: int,
    *,
    condition: Condition | None = None,
    control: Sequence[Control] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    repeat: int = 1,
    watch: Callable[[int, State], None] | None = None,
    **asked: Any,
) -> Tensor:
    """`n` samples of `model.sample`, (n, C, H, W), behind a progress bar.

    Args:
        model: what to sample.
        sampler: how to walk its chain; None for a model without one.
        n: how many samples.
        condition: of each sample.
        control: for each ControlNet, with an image for each sample.
        batch_size: as `in_batches`.
        seed: as `in_batches`.
        repeat: as `in_batches`.
        watch: called with the number of each state of a walk from 0, and the state.
        asked: what else `model.sample` is asked, the same for all samples.
    """

    def drawn(
        some: slice, generators: list[torch.Generator], advance: Callable[[], None]
    ) -> Tensor:
        def seen(k: int, state: State) -> None:
            advance()
            if watch is not None:
                watch(k, state)

        given = None if condition is None else condition[some].to(model.device)
        controlled = {}
        if control is not None:
            controlled["control"] = [replace(each, image=each.image[some]) for each in control]
        x = model.sample(
            len(generators),
            None if sampler is None else Watched(sampler, seen),
            condition=given,
            generator=generators,
            **controlled,
            **asked,
        )
        if sampler is None:
            advance()
        return x

    return in_batches(
        f"Sampling {n} image{'s' * (n > 1)}",
        n,
        drawn,
        1 if sampler is None else len(sampler.path(model.chain.schedule)),
        batch_size=batch_size,
        seed=seed,
        repeat=repeat,
    )


def in_batches(
    description: str,
    n: int,
    drawn: Callable[[slice, list[torch.Generator], Callable[[], None]], Tensor],
    num_states: int,
    *,
    batch_size: int,
    seed: int,
    repeat: int = 1,
) -> Tensor:
    """`n` images, (n, C, H, W), behind a progress bar.

    Image i draws from a generator of its own, made of (seed, i), so that it does not depend on the
    batch it is in; or, where images in a row take the same noise, of (seed, i // repeat).

    Args:
        description: the text of the progress bar.
        n: how many images.
        drawn: some of them, given which, their generators, and what to call after each state.
        num_states: how many states a walk has.
        batch_size: images at a time.
        seed: source of all noise.
        repeat: how many images in a row take the same noise.
    """
    batches = []
    with Counting(description, num_states * -(-n // batch_size)) as progress:
        for start in range(0, n, batch_size):
            some = slice(start, min(start + batch_size, n))
            generators = [generator_for(seed, i // repeat) for i in range(some.start, some.stop)]
            batches.append(drawn(some, generators, lambda: progress(1)))
            if start == 0:
                _check_room(batches[0], n)
    return torch.cat(batches)


def _check_room(some: Tensor, n: int) -> None:
    """Raise `NelboError` where `n` images like some would not fit into memory, twice in the end."""
    needed, free = 2 * some.nbytes // len(some) * n, available_memory(some.device)
    if needed > free:
        shape = "×".join(map(str, some.shape[1:]))
        raise NelboError(
            f"{n:,} images of {shape} take {needed / 1e9:,.1f} GB, and "
            f"{free / 1e9:,.1f} GB are free: draw fewer at a time, each time with another seed"
        )


class Film:
    """Keeps some states of a walk: at even changes of x_t, and the last one.

    Args:
        path: of the walk.
        shows: "x_t" or "x_0", what is kept of a state.
    """

    def __init__(self, path: list[Step], shows: str) -> None:
        # x_t = cos φ x_0 + sin φ ε: even in φ is even to the eye.
        angles = torch.tensor([level.angle for level, _ in path], dtype=torch.float64)
        targets = torch.linspace(float(angles[0]), 0.0, _FRAMES, dtype=torch.float64)
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
