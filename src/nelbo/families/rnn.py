r"""A recurrent network over pixels in raster order.

.. math::
    h_i = \mathrm{cell}(u_i, h_{i-1}), \qquad P(x_i | x_{<i}) = P(x_i | h_i)

with the gated recurrent unit of Cho et al. (2014) or the long short-term memory of Hochreiter &
Schmidhuber (1997), in layers; with the pixel above among its inputs it is a small relative of the
row LSTM of van den Oord et al. (2016).
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from nelbo.base.arguments import check_choice
from nelbo.chain.data_space import DataSpace
from nelbo.families.autoregressive import AutoregressiveNetwork, SequenceModel

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


class Recurrence(SequenceModel):
    """Layers of recurrent cells, with dropout before, between and after them."""

    def __init__(self, cell: str, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.cells = CELLS[cell](width, width, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)

    def forward(self, u: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length out"]:
        """Whole sequences."""
        return self.dropout(self.cells(self.dropout(u))[0])

    def step(self, u: Float[Tensor, "batch width"], state: Any) -> tuple[Tensor, Any]:
        """One step."""
        features, state = self.cells(u[:, None], state)
        return features[:, 0], state


class RNN(AutoregressiveNetwork):
    """A GRU or LSTM over pixels in raster order; its likelihood is exact.

    Args:
        cell: "gru" or "lstm".
        width: of each layer.
        layers: how many.
        dropout: share of the features that is dropped in training.
        data: what the values of a tensor are; see `Family.fit`.
    """

    def __init__(
        self,
        cell: str = "gru",
        *,
        width: int = 256,
        layers: int = 2,
        dropout: float = 0.2,
        data: DataSpace | None = None,
    ) -> None:
        super().__init__(width, layers, dropout, data, cell=cell)
        check_choice("cell", cell, CELLS)
        self.cell = cell

    def sequence_model(self) -> SequenceModel:
        """The layers."""
        return Recurrence(self.cell, self.width, self.layers, self.dropout)
