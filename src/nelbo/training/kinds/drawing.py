"""Samples that a run draws for its report."""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.chain.conditioning import Condition
from nelbo.chain.model import Model
from nelbo.samplers import Sampler
from nelbo.samplers.batches import sample_in_batches


def all_classes(model: Model, n: int) -> Condition | None:
    """Every class in turn for a class-conditional model, where the model is; else None."""
    if not model.num_classes:
        return None
    return Condition(label=torch.arange(n, device=model.device) % model.num_classes)


def draw(model: Model, sampler: Sampler | None, n: int, seed: int) -> Tensor:
    """`n` samples of every class in turn, in batches behind a progress bar, with a seed each."""
    return sample_in_batches(model, sampler, n, condition=all_classes(model, n), seed=seed)
