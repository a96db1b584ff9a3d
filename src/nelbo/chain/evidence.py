r"""What examples cost under a model, by named terms: the protocol, and costs without a chain.

.. math::
    -\log p(x) \le \mathrm{total}(x) = \sum_{\text{terms}} \mathrm{cost}(x),

with equality where the kind is "exact". `nelbo.chain.bound.Bound` is the evidence of a chain, of
kind "bound"; `Costs` is that of a model that needs no levels: an exact likelihood, a bound in one
call, or, of kind "none", a model that gives data no probability.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.base.arguments import check_kind, described
from nelbo.base.errors import NelboError
from nelbo.chain.estimate import Estimate

Batch = TypeVar("Batch")

KINDS = ("exact", "bound", "none")


class Summary(ABC):
    """Means over a dataset of every cost and of their total.

    Attributes:
        kind: of the evidence: "exact", "bound" or "none".
        examples: how many examples the means are over.
        dims: number of dimensions of one example.
    """

    kind: str
    examples: int
    dims: int

    @property
    @abstractmethod
    def costs(self) -> dict[str, Estimate]:
        """Each term as a cost and, last, their "total", in nats per example."""

    @property
    def nelbo(self) -> Estimate:
        """The total cost, −log p(x) or its bound, in nats per example."""
        return self.costs["total"]

    @property
    def bits_per_dim(self) -> Estimate:
        """The total cost in bits per dimension, total / (dims · ln 2)."""
        return self.nelbo * self._bits

    @property
    def in_bits(self) -> dict[str, Estimate]:
        """Each term and the total as a cost in bits per dimension, by name."""
        return {name: cost * self._bits for name, cost in self.costs.items()}

    @property
    def floor_in_bits(self) -> Estimate | None:
        """What no prior can lower, bits per dimension: that of an autoencoder; None without one."""
        return None

    @property
    def _bits(self) -> float:
        return 1.0 / (self.dims * math.log(2.0))

    def __repr__(self) -> str:
        """A line for each cost, in both units."""
        rows = [("", "nats", "bits/dim")]
        rows += [(name, f"{self.costs[name]}", f"{bits}") for name, bits in self.in_bits.items()]
        names, nats, bits = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = [f"{a:{names}}  {b:>{nats}}  {c:>{bits}}" for a, b, c in rows]
        return "\n".join(
            [*lines, f"{self.kind}, {self.examples:,} examples of {self.dims:,} values"]
        )


def check_evidence(**given: Any) -> None:
    """Raise `NelboError` for what is no `Evidence`, by name."""
    for name, evidence in given.items():
        if not hasattr(type(evidence), "bits_per_dim"):
            expected = "what the elbo or evidence of a model returns"
            raise NelboError(f"{name} is {described(evidence)}, expected {expected}")


def check_bits(**given: Any) -> None:
    """Raise `NelboError` for what is no `Evidence`, or has no bits as there is no p(x), by name."""
    check_evidence(**given)
    for name, evidence in given.items():
        if evidence.kind == "none":
            raise NelboError(
                f"{name}: a model that gives images no probability, as a GAN, has no bits/dim; "
                "judge it by its samples"
            )


def batches_of(kind: type[Any], batches: Iterable[Batch]) -> list[Batch]:
    """The evidence of several batches that are to be joined.

    Raises:
        NelboError: no list of them, or not all of one class.
    """
    name = f"a list of {kind.__name__}"
    check_kind("what is to be joined", batches, Iterable, name)
    found = list(batches)
    for each in found:
        check_kind("each of what is to be joined", each, kind, f"as in {name}")
    if len(classes := {type(each).__name__ for each in found}) > 1:
        raise NelboError(f"{' and '.join(sorted(classes))} do not join: their terms differ")
    return found


class Evidence(Protocol):
    """The costs of each example of a batch, in nats."""

    @property
    def kind(self) -> str:
        """What the total is of −log p(x): "exact", a "bound", or "none" where there is no p(x)."""

    @property
    def terms(self) -> Mapping[str, Tensor]:
        """Each cost by its name, (B,); they add up to the total."""

    @property
    def total(self) -> Tensor:
        """−log p(x) of each example or its bound, (B,); nan where the kind is "none"."""

    @property
    def dims(self) -> int:
        """Number of dimensions of one example."""

    @property
    def bits_per_dim(self) -> Tensor:
        """The total in bits per dimension, total / (dims · ln 2), (B,)."""

    @property
    def nats_per_bit_per_dim(self) -> float:
        """How many nats of an example are one bit per dimension, dims · ln 2."""

    @property
    def monte_carlo_variance(self) -> Tensor:
        """Estimated Monte Carlo variance of each total, nats², (B,); nan where unknown."""

    @property
    def levels(self) -> Tensor:
        """The levels of a chain that were evaluated, (B, K) int64; K is 0 without a chain."""

    @property
    def calls(self) -> Tensor:
        """How many network evaluations each example took, (B,) int64."""

    def __len__(self) -> int:
        """How many examples there are."""

    def mean(self) -> Summary:
        """Dataset means of every term with their errors."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Every tensor on a device, as `Tensor.to`."""

    def take(self, index: Tensor | slice) -> Self:
        """The evidence of some of the examples, in the order of `index`."""

    @staticmethod
    def cat(batches: Iterable[Any]) -> Any:
        """The evidence of several batches of one dataset, together."""

    def tensors(self) -> list[tuple[str, Tensor]]:
        """Every tensor with its name."""

    def notes(self) -> dict[str, str]:
        """What is no tensor, for a file."""

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> Self:
        """The evidence of what `tensors` and `notes` gave.

        Raises:
            KeyError: one of them is missing.
        """


def joined(batches: Iterable[Evidence]) -> Any:
    """The evidence of several batches of one dataset, together, of the class that they are of.

    Raises:
        NelboError: no batches, or batches that do not belong together.
    """
    batches = list(batches)
    if not batches:
        raise NelboError("there is no evidence to join")
    return batches[0].cat(batches)


@dataclass(frozen=True, repr=False)
class CostsSummary(Summary):
    """Means over a dataset of costs without a chain; `terms` in nats per example."""

    terms: Mapping[str, Estimate]
    total: Estimate
    kind: str
    examples: int
    dims: int

    @property
    def costs(self) -> dict[str, Estimate]:
        """Each term and the total as a cost in nats per example, by name."""
        return {**self.terms, "total": self.total}


@dataclass(frozen=True)
class Costs:
    """What each example costs without any levels: an `Evidence` of any kind.

    Attributes:
        kind: "exact", "bound" or "none".
        terms: the named costs, (B,) each, nats; none for the kind "none".
        dims: number of dimensions of one example.
        calls: network evaluations of each example, (B,) int64.
        variance: Monte Carlo variance of each total, nats², (B,); by default zero where the kind is
            "exact" and nan elsewhere.

    Raises:
        NelboError: an unknown kind, or terms of a kind that has none.
    """

    kind: str
    terms: Mapping[str, Float[Tensor, " batch"]]
    dims: int
    calls: Int[Tensor, " batch"]
    variance: Float[Tensor, " batch"] = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise NelboError(f"evidence is of a kind of {', '.join(KINDS)}, got {self.kind!r}")
        if (self.kind == "none") == bool(self.terms):
            raise NelboError(
                f"evidence of the kind {self.kind!r} with {len(self.terms)} terms: a model that "
                "gives no probability has none, and others have at least one"
            )
        if self.variance is None:
            error = 0.0 if self.kind == "exact" else math.nan
            object.__setattr__(self, "variance", torch.full_like(self.total.detach(), error))

    @classmethod
    def of(cls, kind: str, terms: Mapping[str, Tensor], x_0: Tensor) -> Self:
        """The costs of data (B, C, H, W), each evaluated in one call."""
        calls = torch.ones(len(x_0), dtype=torch.int64, device=x_0.device)
        return cls(kind, terms, x_0[0].numel(), calls)

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """The sum of all terms of each example, nats; nan where there are none."""
        unknown = torch.full(self.calls.shape, math.nan, device=self.calls.device)
        return torch.stack(list(self.terms.values())).sum(0) if self.terms else unknown

    @property
    def bits_per_dim(self) -> Float[Tensor, " batch"]:
        """The total in bits per dimension."""
        return self.total / self.nats_per_bit_per_dim

    @property
    def nats_per_bit_per_dim(self) -> float:
        """How many nats of an example are one bit per dimension, dims · ln 2."""
        return self.dims * math.log(2.0)

    @property
    def monte_carlo_variance(self) -> Float[Tensor, " batch"]:
        """Monte Carlo variance of each total, nats²."""
        return self.variance

    @property
    def levels(self) -> Int[Tensor, "batch 0"]:
        """No levels, (B, 0)."""
        return self.calls.new_zeros(len(self), 0)

    def __len__(self) -> int:
        return len(self.calls)

    def mean(self) -> CostsSummary:
        """Dataset means of every term; the total with its Monte Carlo error."""
        n = len(self)
        certain = 0.0 if self.kind == "exact" else math.nan
        return CostsSummary(
            {name: Estimate.of(cost, certain) for name, cost in self.terms.items()},
            Estimate.of(self.total, self.variance.double().sum().item() / n**2),
            self.kind,
            n,
            self.dims,
        )

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every tensor to a device, as `Tensor.to`."""
        return self._each(lambda value: value.to(*args, **kwargs))

    def take(self, index: Tensor | slice) -> Self:
        """The costs of some of the examples, in the order of `index`."""
        return self._each(lambda value: value[index])

    @staticmethod
    def cat(batches: Iterable[Costs]) -> Costs:
        """Join the costs of several batches of one dataset.

        Raises:
            NelboError: no batches, or different kinds, terms or `dims`.
        """
        batches = batches_of(Costs, batches)
        if not batches:
            raise NelboError("Costs.cat needs at least one batch, got none")
        if len({(b.kind, b.dims, *b.terms) for b in batches}) > 1:
            raise NelboError("Costs.cat joins costs of the same kind, terms and dims")
        first = batches[0]
        return replace(
            first,
            terms={name: torch.cat([b.terms[name] for b in batches]) for name in first.terms},
            calls=torch.cat([b.calls for b in batches]),
            variance=torch.cat([b.variance for b in batches]),
        )

    def tensors(self) -> list[tuple[str, Tensor]]:
        """Every tensor with its name: terms, calls and variance."""
        return [*self.terms.items(), ("calls", self.calls), ("variance", self.variance)]

    def notes(self) -> dict[str, str]:
        """What is no tensor, for a file."""
        return {"evidence": self.kind, "dims": str(self.dims)}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> Self:
        """The evidence of what `tensors` and `notes` gave."""
        terms = {n: value for n, value in tensors.items() if n not in ("calls", "variance")}
        return cls(
            notes["evidence"], terms, int(notes["dims"]), tensors["calls"], tensors["variance"]
        )

    def _each(self, change: Any) -> Self:
        return replace(
            self,
            terms={name: change(cost) for name, cost in self.terms.items()},
            calls=change(self.calls),
            variance=change(self.variance),
        )
