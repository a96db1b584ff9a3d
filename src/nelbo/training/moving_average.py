"""The exponential moving average of a model's weights, which is what runs keep."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class ExponentialMovingAverage(Generic[Model]):
    r"""Averages weights as :math:`\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta`.

    The decay warms up as :math:`d_n = \min(d, (1 + n) / (10 + n))`, so that the first, poor weights
    are forgotten quickly.

    Args:
        model: the model to follow; its copy is `model` here.
        decay: d, in [0, 1).
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._updates = 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Take in the weights of `model` after a step."""
        self._updates += 1
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates))
        averages: list[Tensor] = [*self.model.parameters()]
        torch._foreach_lerp_(averages, [*model.parameters()], 1 - decay)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
