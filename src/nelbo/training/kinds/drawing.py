"""Samples that a run draws for its report."""

from __future__ import annotations

from torch import Tensor

from nelbo.chain.model import Model
from nelbo.samplers import Sampler
from nelbo.samplers.batches import sample_in_batches


def draw(model: Model, sampler: Sampler | None, n: int, seed: int) -> Tensor:
    """`n` samples of every class in turn, in batches behind a progress bar, with a seed each."""
    return sample_in_batches(model, sampler, n, condition=model.classes_in_turn(n), seed=seed)
