r"""Coding value by value, with a model's own P of each value given those before it.

.. math::
    -\log_2 P(x) = -\sum_i \log_2 P(x_i | x_{<i})

No latent is drawn, so no image pays for draws. The decoder pops the first value first; the encoder
goes through all values and then pushes them from the last to the first.

A probability becomes the integer nearest to :math:`64 \log(P / \max P)`, and from it a weight in
the same way on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nelbo.chain.model import Model
from nelbo.coding.agreement import Agreement
from nelbo.coding.arithmetic import LOG_STEPS, scale_of
from nelbo.coding.chain_code import Lane, Part, Progress
from nelbo.coding.distributions import Table

# The largest weight, and the logarithm below which a level has the least.
_LARGEST = 2.0**22
_LEAST = -15.5
# A logarithm of a probability is of this size, for the error of its output.
_OUTPUT = 16.0

# Of each level of a value of each example, (n, levels); an encoder holds those of all values.
Steps = NDArray[np.int16]


@dataclass(frozen=True)
class ValueCode:
    """Codes the examples of a block side by side, each value of all of them in turn.

    Attributes:
        model: with `conditionals`, in the precision that is coded with.
        tolerance: how far another machine's outputs may be from these, relative to their size.
    """

    model: Model
    tolerance: float

    @torch.no_grad()
    def push(
        self, lanes: Sequence[Lane], blocks: Sequence[Part], progress: Progress | None = None
    ) -> None:
        """Push the examples of a block on each stack."""
        for lane, block in zip(lanes, blocks, strict=True):
            values = _raster(self.model.data.to_levels(block.x_0))
            steps = list(self._steps(lane.agreement, values))
            for i in reversed(range(len(steps))):
                _table(steps[i]).push(lane.stack, values[:, i].numpy())
            if progress is not None:
                progress(len(block.index))

    @torch.no_grad()
    def pop(
        self, lanes: Sequence[Lane], blocks: Sequence[Part], progress: Progress | None = None
    ) -> None:
        """Pop the examples of a block of each stack, into `x_0`."""
        for lane, block in zip(lanes, blocks, strict=True):
            values = torch.zeros_like(_raster(block.x_0), dtype=torch.int64)
            for i, steps in enumerate(self._steps(lane.agreement, values)):
                values[:, i] = torch.from_numpy(_table(steps).pop(lane.stack))
            images = values.view(block.x_0.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
            block.x_0[:] = self.model.data.to_network(images).to(block.x_0)
            if progress is not None:
                progress(len(block.index))

    def _steps(self, agreement: Agreement, values: Tensor) -> Iterator[Steps]:
        """64 log(P / max P) of each value in turn; a value is read when the next is asked for."""
        steps = self.model.conditionals(len(values))
        assert steps is not None
        log_p = next(steps)
        for i in range(values.shape[1]):
            yield self._rounded(agreement, log_p, i)
            if i + 1 < values.shape[1]:
                log_p = steps.send(values[:, i])
        steps.close()

    def _rounded(self, agreement: Agreement, log_p: Tensor, i: int) -> Steps:
        """Integers from log P of each level, (n, levels)."""
        from_best = (log_p - log_p.max(1, keepdim=True).values).double().cpu().numpy()
        # What is far below gets the least weight whatever it is, and cannot be rounded apart.
        steps = np.where(from_best < _LEAST, LOG_STEPS * 2 * _LEAST, LOG_STEPS * from_best)
        error = LOG_STEPS * self.tolerance * _OUTPUT
        rounded = agreement.round(steps.ravel(), error, i * steps.size)
        return rounded.reshape(steps.shape).astype(np.int16)


def _table(steps: Steps) -> Table:
    """The distribution that integers stand for."""
    return Table(np.floor(_LARGEST * scale_of(steps.astype(np.int64))) + 1.0)


def _raster(levels: Tensor) -> Tensor:
    """(n, C, H, W) to (n, H·W·C)."""
    return levels.cpu().permute(0, 2, 3, 1).flatten(1)
