"""The optimiser, and its learning rate over a run."""

from __future__ import annotations

import math

from torch import nn

from nelbo.networks.muon import Muon
from nelbo.networks.sharding import is_sharded
from nelbo.training.config import TrainingConfig

# The share of the learning rate that a warm-up begins with, where it is not known by steps.
_LEAST_RATE = 0.02


def optimizer_of(model: nn.Module, config: TrainingConfig) -> Muon:
    """The optimiser of a run over all parameters, in one fused call where it can be."""
    looked_up = {
        id(weight)
        for m in model.modules()
        if isinstance(m, nn.Embedding)
        for weight in m.parameters()
    }
    # Gains and biases are not decayed. What is sharded is not updated in one call with what is not.
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        is_matrix = parameter.ndim >= 2
        orthogonal = config.optimizer == "muon" and is_matrix and id(parameter) not in looked_up
        kind = orthogonal, is_matrix, is_sharded(parameter)
        groups.setdefault(kind, []).append(parameter)
    return Muon(
        [
            {
                "params": weights,
                "weight_decay": config.weight_decay if is_matrix else 0.0,
                "orthogonal": orthogonal,
            }
            for (orthogonal, is_matrix, _), weights in groups.items()
        ],
        config.learning_rate,
        config.beta2,
    )


def rate_factor(step: int, fraction: float, config: TrainingConfig) -> float:
    """Linear warm-up, over a share of the run or some steps, times a cosine to zero over the run.

    Args:
        step: how many steps are done.
        fraction: how much of the run is done.
        config: how long the warm-up is.
    """
    if config.warmup_steps is not None:
        warmup = (step + 1) / (config.warmup_steps + 1)
    elif config.warmup == 0:
        warmup = 1.0
    else:
        # Where the run is after this step; of the first one that is known by its steps alone.
        first = 0.0 if config.steps is None else 1 / config.steps
        after = fraction * (step + 1) / step if step else first
        warmup = max(_LEAST_RATE, after / config.warmup)
    return min(1.0, warmup) * 0.5 * (1 + math.cos(math.pi * fraction))
