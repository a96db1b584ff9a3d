"""What an autoregressive network sees of a value's past at each step, and where it is."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nelbo.chain.data_space import DataSpace
from nelbo.families.heads import has_classes


class Neighbours(nn.Module):
    """The value before in raster order, the one above of the same channel, and the position.

    Args:
        width: of the features.
        shape: (C, H, W) of an image.
        space: what the values are.
    """

    def __init__(self, width: int, shape: tuple[int, int, int], space: DataSpace) -> None:
        super().__init__()
        channels, height, across = shape
        self.row = channels * across
        self.channels, self.space = channels, space
        self.values = nn.Linear(4, width)
        levels = space.shown_levels if has_classes(space) else 0
        self.before = nn.Embedding(levels + 1, width)  # the last for no value
        self.above = nn.Embedding(levels + 1, width)
        self.embedded = levels
        self.down = nn.Embedding(height, width)
        self.along = nn.Embedding(across, width)
        self.channel = nn.Embedding(channels, width)
        for table in (self.down, self.along, self.channel, self.before, self.above):
            nn.init.normal_(table.weight, std=0.3)

    def of_sequence(self, x: Float[Tensor, "batch length"]) -> Float[Tensor, "batch length width"]:
        """Features at every step of whole sequences."""
        before, above = torch.zeros_like(x), torch.zeros_like(x)
        before[:, 1:] = x[:, :-1]
        above[:, self.row :] = x[:, : -self.row]
        return self(before, above, torch.arange(x.shape[1], device=x.device))

    def at(self, x: Float[Tensor, "batch length"], i: int) -> Float[Tensor, "batch width"]:
        """Features at step i, of a sequence of which what is before i is known."""
        nothing = torch.zeros_like(x[:, :1])
        before = x[:, i - 1 : i] if i else nothing
        above = x[:, i - self.row : i - self.row + 1] if i >= self.row else nothing
        return self(before, above, torch.tensor([i], device=x.device))[:, 0]

    def forward(
        self,
        before: Float[Tensor, "batch steps"],
        above: Float[Tensor, "batch steps"],
        index: Int[Tensor, " steps"],
    ) -> Float[Tensor, "batch steps width"]:
        """Features of these neighbours, at these places of the sequence."""
        has_before = (index > 0).expand_as(before)
        has_above = (index >= self.row).expand_as(above)
        values = torch.stack([before, has_before, above, has_above], -1)
        place = self.down(index // self.row) + self.along(index % self.row // self.channels)
        return (
            self.values(values)
            + self.before(self._row_of(before, has_before))
            + self.above(self._row_of(above, has_above))
            + place
            + self.channel(index % self.channels)
        )

    def _row_of(self, x: Tensor, known: Tensor) -> Tensor:
        """The row of an embedding for each value."""
        if not self.embedded:
            return torch.zeros_like(known, dtype=torch.int64)
        return torch.where(known, self.space.to_levels(x), self.embedded)
