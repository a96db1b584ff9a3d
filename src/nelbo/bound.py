r"""The evidence lower bound of a Markovian hierarchical VAE, term by term.

For a chain of latents :math:`x_1, \dots, x_T` over data :math:`x_0`

.. math::
    \log p(x_0) \ge \mathrm{ELBO}
      = \underbrace{E_q[\log p(x_0|x_1)]}_{\text{reconstruction}}
      - \underbrace{KL(q(x_T|x_0) \,\|\, p(x_T))}_{\text{prior matching}}
      - \sum_{t=2}^{T} \underbrace{E_q\, KL(q(x_{t-1}|x_t, x_0) \,\|\, p(x_{t-1}|x_t))}
        _{\text{score matching}}

(Sohl-Dickstein et al. 2015, eq. 14; Ho et al. 2020, eq. 5). Every tensor is in nats per example.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.errors import NelboError

BoundKind = TypeVar("BoundKind", bound="Bound")


@dataclass(frozen=True)
class Estimate:
    """A dataset mean with its standard error, the spread over examples divided by √n."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Float[Tensor, " batch"]) -> Estimate:
        """The mean of `values`; the standard error is nan for fewer than two of them."""
        values = values.detach().to("cpu", torch.float64)
        spread = values.std().item() if len(values) > 1 else math.nan
        return cls(values.mean().item(), spread / math.sqrt(len(values)))

    def __mul__(self, factor: float) -> Estimate:
        return Estimate(self.mean * factor, self.standard_error * abs(factor))


@dataclass(frozen=True)
class BoundSummary:
    """Means over a dataset of the bound and of its terms, in nats per example.

    `in_bits` gives the same in bits per dimension, where every term is signed as a cost: the
    reconstruction term enters as −E[log p(x_0|x_1)], so that the three costs sum to the total.
    """

    reconstruction: Estimate
    prior_matching: Estimate
    score_matching: Estimate
    elbo: Estimate
    examples: int
    dims: int

    @property
    def nelbo(self) -> Estimate:
        """The negative bound, nats per example."""
        return self.elbo * -1.0

    @property
    def bits_per_dim(self) -> Estimate:
        """The negative bound in bits per dimension, nelbo / (dims · ln 2)."""
        return self.nelbo * self._bits

    @property
    def costs(self) -> dict[str, Estimate]:
        """Each term and the total as a cost in nats per example, by name."""
        return {
            "reconstruction": self.reconstruction * -1.0,
            "prior_matching": self.prior_matching,
            "score_matching": self.score_matching,
            "total": self.nelbo,
        }

    @property
    def in_bits(self) -> dict[str, Estimate]:
        """Each term and the total as a cost in bits per dimension, by name."""
        return {name: cost * self._bits for name, cost in self.costs.items()}

    @property
    def _bits(self) -> float:
        return 1.0 / (self.dims * math.log(2.0))


@dataclass(frozen=True)
class Bound:
    r"""The bound of each example of a batch, by its terms, in nats.

    Attributes:
        reconstruction: :math:`E_q[\log p(x_0|x_1)]`, (B,).
        prior_matching: :math:`KL(q(x_T|x_0) \| p(x_T))`, (B,).
        score_matching: the KL at each evaluated level, (B, K).
        levels: which levels those are, (B, K) int64 in 2..T.
        weights: (B, K), so that ``(weights * score_matching).sum(1)`` is an unbiased estimate of
            the sum over all levels; ones when every level was evaluated.
        dims: number of dimensions of one example.
    """

    reconstruction: Float[Tensor, " batch"]
    prior_matching: Float[Tensor, " batch"]
    score_matching: Float[Tensor, "batch evaluated"]
    levels: Int[Tensor, "batch evaluated"]
    weights: Float[Tensor, "batch evaluated"]
    dims: int

    @property
    def total_score_matching(self) -> Float[Tensor, " batch"]:
        """The sum over levels of the score matching terms, or its unbiased estimate, (B,)."""
        return (self.weights * self.score_matching).sum(1)

    @property
    def elbo(self) -> Float[Tensor, " batch"]:
        """The evidence lower bound of each example, nats."""
        return self.reconstruction - self.prior_matching - self.total_score_matching

    @property
    def nelbo(self) -> Float[Tensor, " batch"]:
        """The negative evidence lower bound of each example, nats."""
        return -self.elbo

    @property
    def bits_per_dim(self) -> Float[Tensor, " batch"]:
        """The negative bound in bits per dimension, nelbo / (dims · ln 2)."""
        return self.nelbo / (self.dims * math.log(2.0))

    def __len__(self) -> int:
        return len(self.reconstruction)

    def mean(self) -> BoundSummary:
        """Dataset means of every term with their standard errors."""
        return BoundSummary(
            reconstruction=Estimate.of(self.reconstruction),
            prior_matching=Estimate.of(self.prior_matching),
            score_matching=Estimate.of(self.total_score_matching),
            elbo=Estimate.of(self.elbo),
            examples=len(self),
            dims=self.dims,
        )

    def by_level(self) -> tuple[Int[Tensor, " present"], Float[Tensor, " present"]]:
        """Mean score matching term at every level that was evaluated: levels and nats."""
        present, where = self.levels.flatten().unique(return_inverse=True)
        zeros = torch.zeros(len(present), dtype=torch.float64, device=self.levels.device)
        total = zeros.index_add(0, where, self.score_matching.detach().flatten().double())
        count = zeros.index_add(0, where, torch.ones_like(where, dtype=torch.float64))
        return present, total / count

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every tensor to a device, as `Tensor.to`."""
        moved: dict[str, Any] = {name: value.to(*args, **kwargs) for name, value in self._tensors()}
        return replace(self, **moved)

    @staticmethod
    def cat(bounds: Iterable[BoundKind]) -> BoundKind:
        """Join the bounds of several batches of one dataset.

        Raises:
            NelboError: no bounds, or different `dims` or numbers of evaluated levels.
        """
        bounds = list(bounds)
        if not bounds:
            raise NelboError("Bound.cat needs at least one bound, got none")
        kinds = {(b.dims, b.levels.shape[1]) for b in bounds}
        if len(kinds) > 1:
            raise NelboError(
                "Bound.cat joins bounds of the same data and the same number of evaluated levels; "
                f"found (dims, levels) = {sorted(kinds)}"
            )
        names = [name for name, _ in bounds[0]._tensors()]
        joined: dict[str, Any] = {
            name: torch.cat([getattr(b, name) for b in bounds]) for name in names
        }
        return replace(bounds[0], **joined)

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "dims"]
