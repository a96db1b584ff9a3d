r"""Networks that give each value a distribution from all values before it, in raster order.

.. math::
    P(x) = \prod_i P(x_i | h_i), \qquad h_1, h_2, \dots = f(u_1, u_2, \dots)

with :math:`u_i` the value before, the one above and the position (`nelbo.families.neighbours`), f a
sequence model that is causal, and :math:`P(x_i|h_i)` of `nelbo.families.heads`. The likelihood is
exact. A sequence model runs over whole sequences to train, and step by step to sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nelbo.base.arguments import check_counts
from nelbo.base.errors import NelboError
from nelbo.chain.data_space import DataSpace
from nelbo.chain.evidence import Costs, Evidence
from nelbo.chain.model import Conditionals
from nelbo.families.arguments import check_depth, check_dropout
from nelbo.families.examples import Examples
from nelbo.families.family import Family
from nelbo.families.fitting import Budget, Steps
from nelbo.families.heads import head_for
from nelbo.families.neighbours import Neighbours
from nelbo.families.raster import from_raster, to_raster
from nelbo.families.training import Recipe, train

# The longest sequence, that of colour images of 32 × 32 and a third more.
LONGEST = 4096


class SequenceModel(nn.Module, ABC):
    """A causal map of sequences, all steps at once or one after the other."""

    @abstractmethod
    def forward(self, u: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length out"]:
        """Features after each step of whole sequences."""

    @abstractmethod
    def step(self, u: Float[Tensor, "batch width"], state: Any) -> tuple[Tensor, Any]:
        """Features after one step, and the state after it; the first state is None."""


class AutoregressiveNetwork(Family):
    """A `SequenceModel` between neighbours and a head.

    Args:
        width: of the features.
        layers: of the sequence model.
        dropout: share of the features that is dropped in training.
        data: what the values of a tensor are; see `Family.fit`.
        **options: the arguments of the subclass.

    Attributes:
        recipe: how it is trained.
    """

    recipe: Recipe = Recipe()

    def __init__(
        self, width: int, layers: int, dropout: float, data: DataSpace | None, **options: Any
    ) -> None:
        super().__init__(data, width=width, layers=layers, dropout=dropout, **options)
        check_counts(width=width)
        check_depth(layers=layers)
        check_dropout(dropout)
        self.width, self.layers, self.dropout = width, layers, dropout

    @abstractmethod
    def sequence_model(self) -> SequenceModel:
        """A fresh one, from `width` features to `width`."""

    def build(self) -> None:
        """Neighbours, sequence model and head."""
        if self.dims > LONGEST:
            raise NelboError(
                f"{self.name} reads an image value by value, at most {LONGEST:,} of them; these "
                f"have {self.dims:,}: use smaller images, or grey ones"
            )
        self.neighbours = Neighbours(self.width, self.image_shape, self.data)
        self.sequence = self.sequence_model()
        self.head = head_for(self.width, self.data)

    def log_prob(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, " batch"]:
        """log P(x) of each image, nats, by all steps at once."""
        sequence = to_raster(x.to(self.head_dtype))
        features = self.sequence(self.neighbours.of_sequence(sequence))
        return self.head.log_prob(features, sequence).double().sum(1)

    @property
    def head_dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.head.parameters()).dtype

    def fitting(self, examples: Examples, budget: Budget, generator: torch.Generator) -> Steps:
        """Updates of the weights that raise log P(x)."""

        def cost(x: Tensor, generator: torch.Generator) -> Tensor:
            return -self.log_prob(x)

        return train(self, cost, cost, examples, self.recipe, budget, generator)

    def costs(self, x_0: Tensor, generator: torch.Generator | None) -> Evidence:
        """−log P(x), exact."""
        found = torch.cat([self.log_prob(part) for part in x_0.split(self.recipe.batch_size)])
        return Costs.of("exact", {"likelihood": -found}, x_0)

    def conditionals(self, n: int) -> Conditionals | None:
        """The head's distribution after each step."""
        return None if self.data.is_density else self._conditionals(n)

    def _conditionals(self, n: int) -> Conditionals:
        x = torch.zeros(n, self.dims, dtype=self.head_dtype, device=self.device)
        levels = torch.arange(self.data.shown_levels, device=self.device)
        every = self.data.to_network(levels).to(x).expand(n, -1)
        state = None
        for i in range(self.dims):
            features, state = self.sequence.step(self.neighbours.at(x, i), state)
            k = yield self.head.log_prob(features[:, None].expand(-1, len(levels), -1), every)
            x[:, i] = every[0, k.to(self.device)]

    def draws(self, n: int, generator: torch.Generator | None) -> Tensor:
        """One value after the other."""
        x = torch.zeros(n, self.dims, dtype=self.head_dtype, device=self.device)
        state = None
        for i in range(self.dims):
            features, state = self.sequence.step(self.neighbours.at(x, i), state)
            x[:, i] = self.head.draw(features, generator)
        return from_raster(x, self.image_shape)
