r"""A state space model over pixels in raster order.

Layers of linear recurrences (`nelbo.families.state_space`) with a gate between them:

.. math::
    x \leftarrow x + W_2\, \mathrm{GLU}(W_1\, \mathrm{GELU}(\mathrm{SSM}(\mathrm{norm}(x))))

Without the gates it would be a recurrent network that is linear, or an LDS without noise in its
state. It trains as a convolution over the whole sequence and samples as a recurrence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, glu

from nelbo.base.arguments import check_counts, check_kind
from nelbo.chain.data_space import DataSpace
from nelbo.families.autoregressive import AutoregressiveNetwork, SequenceModel
from nelbo.families.state_space import DiagonalLayer, SelectiveLayer


class Block(nn.Module):
    """A state space layer, a gate, and what goes around them."""

    def __init__(self, width: int, states: int, selective: bool, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.ssm = (SelectiveLayer if selective else DiagonalLayer)(width, states)
        self.mix = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Tensor:
        """Whole sequences."""
        return x + self._gate(self.ssm(self.norm(x)))

    def step(self, x: Float[Tensor, "batch width"], h: Tensor | None) -> tuple[Tensor, Tensor]:
        """One step."""
        y, h = self.ssm.step(self.norm(x), h)
        return x + self._gate(y), h

    def _gate(self, y: Tensor) -> Tensor:
        return glu(self.mix(self.dropout(gelu(y))), -1)


class StateSpaceStack(SequenceModel):
    """Blocks one after the other, and a last normalisation."""

    def __init__(
        self, width: int, layers: int, states: int, selective: bool, dropout: float
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, states, selective, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, u: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length out"]:
        """Whole sequences: the convolutional mode."""
        for block in self.blocks:
            u = block(u)
        return self.norm(u)

    def step(self, u: Float[Tensor, "batch width"], state: Any) -> tuple[Tensor, Any]:
        """One step: the recurrent mode."""
        after = []
        blocks = cast(Sequence[Block], self.blocks)
        for block, h in zip(blocks, state or [None] * len(blocks), strict=True):
            u, h = block.step(u, h)
            after.append(h)
        return self.norm(u), after


class SSM(AutoregressiveNetwork):
    """A diagonal state space model over pixels in raster order; its likelihood is exact.

    Args:
        width: of each layer.
        layers: how many.
        states: of each channel of each layer.
        selective: let step, input and output of the states depend on the input.
        dropout: share of the features that is dropped in training.
        data: what the values of a tensor are; see `Family.fit`.
    """

    def __init__(
        self,
        *,
        width: int = 128,
        layers: int = 4,
        states: int = 16,
        selective: bool = False,
        dropout: float = 0.1,
        data: DataSpace | None = None,
    ) -> None:
        super().__init__(width, layers, dropout, data, states=states, selective=selective)
        check_counts(states=states)
        check_kind("selective", selective, bool, "True or False")
        self.states, self.selective = states, selective

    def sequence_model(self) -> SequenceModel:
        """The layers."""
        return StateSpaceStack(self.width, self.layers, self.states, self.selective, self.dropout)
