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
            tables = []
            for i, table in enumerate(self._tables(lane.agreement, values)):
                tables.append((table, values[:, i].numpy()))
            for table, value in reversed(tables):
                table.push(lane.stack, value)
            if progress is not None:
                progress(len(block.index))

    @torch.no_grad()
    def pop(
        self, lanes: Sequence[Lane], blocks: Sequence[Part], progress: Progress | None = None
    ) -> None:
        """Pop the examples of a block of each stack, into `x_0`."""
        for lane, block in zip(lanes, blocks, strict=True):
            values = torch.zeros_like(_raster(block.x_0), dtype=torch.int64)
            for i, table in enumerate(self._tables(lane.agreement, values)):
                values[:, i] = torch.from_numpy(table.pop(lane.stack))
            images = values.view(block.x_0.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
            block.x_0[:] = self.model.data.to_network(images).to(block.x_0)
            if progress is not None:
                progress(len(block.index))

    def _tables(self, agreement: Agreement, values: Tensor) -> Iterator[Table]:
        """The distribution of each value in turn; values are read once it is asked for the next."""
        steps = self.model.conditionals(len(values))
        assert steps is not None
        log_p = next(steps)
        for i in range(values.shape[1]):
            yield self._table(agreement, log_p, i)
            if i + 1 < values.shape[1]:
                log_p = steps.send(values[:, i])
        steps.close()

    def _table(self, agreement: Agreement, log_p: Tensor, i: int) -> Table:
        """A distribution of integers from log P of each level, (n, levels)."""
        from_best = (log_p - log_p.max(1, keepdim=True).values).double().cpu().numpy()
        # What is far below gets the least weight whatever it is, and cannot be rounded apart.
        steps = np.where(from_best < _LEAST, LOG_STEPS * 2 * _LEAST, LOG_STEPS * from_best)
        error = LOG_STEPS * self.tolerance * _OUTPUT
        place = i * steps.size
        rounded = agreement.round(steps.ravel(), error, place).reshape(steps.shape)
        return Table(np.floor(_LARGEST * scale_of(rounded)) + 1.0)


def _raster(levels: Tensor) -> Tensor:
    """(n, C, H, W) to (n, H·W·C)."""
    return levels.cpu().permute(0, 2, 3, 1).flatten(1)
