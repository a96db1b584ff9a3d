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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.estimate import Estimate
from nelbo.chain.evidence import Summary, batches_of
from nelbo.chain.variances import (
    largest_share,
    share_out,
    variance_of_sum,
    variance_over_images,
    variances_of_pairs,
)

BoundKind = TypeVar("BoundKind", bound="Bound")


@dataclass(frozen=True, repr=False)
class BoundSummary(Summary):
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
    kind: str = field(default="bound", kw_only=True)

    @property
    def nelbo(self) -> Estimate:
        """The negative bound, nats per example."""
        return self.elbo * -1.0

    @property
    def costs(self) -> dict[str, Estimate]:
        """Each term and the total as a cost in nats per example, by name."""
        return {
            "reconstruction": self.reconstruction * -1.0,
            "prior_matching": self.prior_matching,
            "score_matching": self.score_matching,
            "total": self.nelbo,
        }


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
        reconstruction_variance: Monte Carlo variance of `reconstruction`, estimated from its
            draws, (B,); nan by default, as where x_1 was drawn once.
        reconstruction_calls: network evaluations behind each `reconstruction`, (B,) int64.
        level_calls: network evaluations behind each row of `score_matching`, (B,) int64; one a
            level by default.
    """

    reconstruction: Float[Tensor, " batch"]
    prior_matching: Float[Tensor, " batch"]
    score_matching: Float[Tensor, "batch evaluated"]
    levels: Int[Tensor, "batch evaluated"]
    weights: Float[Tensor, "batch evaluated"]
    dims: int
    reconstruction_variance: Float[Tensor, " batch"] = None  # type: ignore[assignment]
    reconstruction_calls: Int[Tensor, " batch"] = None  # type: ignore[assignment]
    level_calls: Int[Tensor, " batch"] = None  # type: ignore[assignment]

    # What is drawn with x_1, and the variances of it, for rounds of draws to share out.
    _first_means: ClassVar[tuple[str, ...]] = ("reconstruction",)
    _first_variances: ClassVar[tuple[str, ...]] = ("reconstruction_variance",)

    def __post_init__(self) -> None:
        one = torch.ones_like(self.reconstruction, dtype=torch.int64)
        defaults = {
            "reconstruction_variance": torch.full_like(self.reconstruction.detach(), math.nan),
            "reconstruction_calls": one,
            "level_calls": self.levels.shape[1] * one,
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @property
    def kind(self) -> str:
        """A "bound" on −log p(x)."""
        return "bound"

    @property
    def terms(self) -> dict[str, Float[Tensor, " batch"]]:
        """Each term as a cost, by name, nats; they add up to `total`."""
        return {
            "reconstruction": -self.reconstruction,
            "prior_matching": self.prior_matching,
            "score_matching": self.total_score_matching,
        }

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """The bound on −log p(x) of each example, nats: `nelbo`."""
        return self.nelbo

    @property
    def calls(self) -> Int[Tensor, " batch"]:
        """How many network evaluations each example took."""
        return self.reconstruction_calls + self.level_calls

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
        return self.nelbo / self.nats_per_bit_per_dim

    @property
    def nats_per_bit_per_dim(self) -> float:
        """How many nats of an example are one bit per dimension, dims · ln 2."""
        return self.dims * math.log(2.0)

    @property
    def first_variance(self) -> Float[Tensor, " batch"]:
        """Monte Carlo variance of all that is drawn once for each draw of x_1, nats², (B,)."""
        return self.reconstruction_variance

    @property
    def monte_carlo_variance(self) -> Float[Tensor, " batch"]:
        """Estimated Monte Carlo variance of each example's bound, nats²; nan where unknown."""
        return self.first_variance + variance_of_sum(
            self.weights.detach() * self.score_matching.detach()
        )

    def __len__(self) -> int:
        return len(self.reconstruction)

    def mean(self) -> BoundSummary:
        """Dataset means of every term, each with its two errors."""
        n = len(self)
        columns = (self.weights.detach() * self.score_matching.detach()).double()
        # What neighbouring strata differ by in all images alike is no noise.
        correction = 1.0
        if n > 1:
            columns, correction = columns - columns.mean(0), n / (n - 1)
        pairs = correction * variances_of_pairs(columns).flatten()
        first = self.first_variance.double()
        draws = (self.reconstruction_calls // 2).clamp(min=1)
        score_matching = pairs.sum().item() / n**2
        return BoundSummary(
            reconstruction=Estimate.of(
                self.reconstruction, variance_over_images(self.reconstruction_variance)
            ),
            prior_matching=Estimate.of(self.prior_matching, 0.0),
            score_matching=Estimate.of(
                self.total_score_matching, score_matching, largest_share(pairs, pairs)
            ),
            elbo=Estimate.of(
                self.elbo,
                variance_over_images(first) + score_matching,
                # The draws of x_1 are known by their mean only, and taken to be alike.
                largest_share(torch.cat([pairs, first]), torch.cat([pairs, first / draws])),
            ),
            examples=n,
            dims=self.dims,
        )

    def by_level(self) -> tuple[Int[Tensor, " present"], Float[Tensor, " present"]]:
        """Mean score matching term at every level that was evaluated: levels and nats."""
        present, where = self.levels.flatten().unique(return_inverse=True)
        zeros = torch.zeros(len(present), dtype=torch.float64, device=self.levels.device)
        total = zeros.index_add(0, where, self.score_matching.detach().flatten().double())
        count = zeros.index_add(0, where, torch.ones_like(where, dtype=torch.float64))
        return present, total / count

    def level_means(self, groups: Int[Tensor, " present"] | None = None) -> LevelMeans:
        """The mean of each evaluated level's term with its standard error, in nats.

        The error covers noise and the spread over examples, whose own terms may be correlated; it
        is nan where only one example was evaluated.

        Args:
            groups: to pool levels, the group 0, 1, ... of each level of `by_level`, in order.
        """
        levels, where = self.levels.unique(return_inverse=True)
        if groups is not None:
            where = groups.to(where.device)[where]
        size = len(levels) if groups is None else int(groups.max()) + 1
        term = self.score_matching.detach().double()
        zeros = torch.zeros(len(self), size, dtype=torch.float64, device=term.device)
        count = zeros.scatter_add(1, where, torch.ones_like(term))
        total = zeros.scatter_add(1, where, term)
        mean = total.sum(0) / count.sum(0)
        # A ratio of sums over examples: each is one observation, however many levels it has.
        residual = (total - count * mean).square().sum(0)
        n = (count > 0).sum(0)
        error = (residual * n / (n - 1)).sqrt() / count.sum(0)
        return LevelMeans(levels, mean, error)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every tensor to a device, as `Tensor.to`."""
        moved: dict[str, Any] = {name: value.to(*args, **kwargs) for name, value in self.tensors()}
        return replace(self, **moved)

    def take(self, index: Tensor | slice) -> Self:
        """The bounds of some of the examples, in the order of `index`."""
        some: dict[str, Any] = {name: value[index] for name, value in self.tensors()}
        return replace(self, **some)

    @staticmethod
    def cat(bounds: Iterable[BoundKind]) -> BoundKind:
        """Join the bounds of several batches of one dataset.

        Raises:
            NelboError: no bounds, or different `dims` or numbers of evaluated levels.
        """
        bounds = batches_of(Bound, bounds)
        if not bounds:
            raise NelboError("Bound.cat needs at least one bound, got none")
        kinds = {(b.dims, b.levels.shape[1]) for b in bounds}
        if len(kinds) > 1:
            raise NelboError(
                "Bound.cat joins bounds of the same data and the same number of evaluated levels; "
                f"found (dims, levels) = {sorted(kinds)}"
            )
        names = [name for name, _ in bounds[0].tensors()]
        joined: dict[str, Any] = {
            name: torch.cat([getattr(b, name) for b in bounds]) for name in names
        }
        return replace(bounds[0], **joined)

    @staticmethod
    def merge(rounds: Iterable[BoundKind]) -> BoundKind:
        """One bound of the same examples from independent rounds of draws.

        Each term of a round counts in proportion to the network evaluations behind it, so the
        weights still make an unbiased estimate and rounds may differ in their number of levels.

        Raises:
            NelboError: no rounds, or rounds of different examples.
        """
        rounds = batches_of(Bound, rounds)
        if not rounds:
            raise NelboError("Bound.merge needs at least one bound, got none")
        kinds = {(len(b), b.dims) for b in rounds}
        if len(kinds) > 1:
            raise NelboError(
                "Bound.merge joins bounds of the same examples; "
                f"found (examples, dims) = {sorted(kinds)}"
            )
        first_calls = torch.stack([b.reconstruction_calls for b in rounds])
        level_calls = torch.stack([b.level_calls for b in rounds])
        first_share = first_calls / first_calls.sum(0)
        level_share = level_calls / level_calls.sum(0).clamp(min=1)
        weights = [
            b.weights * share[:, None].to(b.weights)
            for b, share in zip(rounds, level_share, strict=True)
        ]
        first = rounds[0]
        shared: dict[str, Any] = {
            name: share_out(share, torch.stack([getattr(b, name) for b in rounds]))
            for names, share in (
                (first._first_means, first_share),
                (first._first_variances, first_share.square()),
            )
            for name in names
        }
        return replace(
            first,
            score_matching=torch.cat([b.score_matching for b in rounds], 1),
            levels=torch.cat([b.levels for b in rounds], 1),
            weights=torch.cat(weights, 1),
            reconstruction_calls=first_calls.sum(0),
            level_calls=level_calls.sum(0),
            **shared,
        )

    def tensors(self) -> list[tuple[str, Tensor]]:
        """Every tensor with its name."""
        return [(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "dims"]

    def notes(self) -> dict[str, str]:
        """What is no tensor, for a file."""
        return {"dims": str(self.dims)}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> Self:
        """The bound of what `tensors` and `notes` gave."""
        names = [f.name for f in fields(cls) if f.name != "dims"]
        known: dict[str, Any] = {name: tensors[name] for name in names}
        return cls(**known, dims=int(notes["dims"]))


@dataclass(frozen=True)
class LevelMeans:
    """What each evaluated level costs, in nats.

    Attributes:
        levels: the levels, increasing, (K,).
        mean: the mean score matching term of each, or of each group, float64.
        standard_error: of each mean, float64.
    """

    levels: Int[Tensor, " present"]
    mean: Float[Tensor, " groups"]
    standard_error: Float[Tensor, " groups"]


@dataclass(frozen=True)
class BoundMap:
    """The negative bound of each value of each example, which sums to that of the example.

    Attributes:
        nats: the negative bound of each value, (B, C, H, W) for images. A single value may cost
            less than nothing where the likelihood is a density.
        bound: the bound of the same draws, term by term.
    """

    nats: Float[Tensor, "batch channels ..."]
    bound: Bound

    @property
    def by_pixel(self) -> Float[Tensor, "batch ..."]:
        """The sum over channels, (B, H, W)."""
        return self.nats.sum(1)

    @property
    def by_channel(self) -> Float[Tensor, "batch channels"]:
        """The sum over pixels, (B, C)."""
        return self.nats.flatten(2).sum(2)
