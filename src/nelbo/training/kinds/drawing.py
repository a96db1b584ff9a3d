"""Samples that a run draws for its report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nelbo.base.console import counting_progress
from nelbo.chain.conditioning import Condition
from nelbo.chain.model import Model
from nelbo.samplers import Sampler, State
from nelbo.samplers.batches import walk_in_batches

_BATCH = 64


def all_classes(model: Model, n: int) -> Condition | None:
    """Every class in turn for a class-conditional model, where the model is; else None."""
    if not model.num_classes:
        return None
    return Condition(label=torch.arange(n, device=model.device) % model.num_classes)


def draw(model: Any, sampler: Sampler, n: int, seed: int) -> Tensor:
    """`n` samples of every class in turn, in batches behind a progress bar, with a seed each."""
    condition = all_classes(model, n)

    def states(some: slice, generators: list[torch.Generator]) -> Iterator[State]:
        given = None if condition is None else condition[some]
        x_T = model.start(len(generators), None, generators)
        return sampler.iterate(model, x_T, condition=given, generator=generators)

    with counting_progress() as progress:
        total = len(sampler.path(model.schedule)) * -(-n // _BATCH)
        about = f"Sampling {n} image{'s' * (n > 1)}"
        task = progress.add_task(about, total=total, status="")
        walks = walk_in_batches(
            n, states, batch_size=_BATCH, seed=seed, watch=lambda k, state: progress.advance(task)
        )
        return torch.cat(list(walks))
