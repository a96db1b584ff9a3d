r"""Which levels of a chain to evaluate, so that a few of them estimate the bound of all.

The score matching part of the bound is a sum over levels. Draw :math:`t_1, \dots, t_K` so that
level t is expected :math:`K \pi(t)` times among them. Then, whatever :math:`\pi > 0`,

.. math::
    \sum_{t=2}^{T} E\,KL_t = E\left[\sum_{k=1}^{K} \frac{KL_{t_k}}{K\, \pi(t_k)}\right],

so :math:`1/(K \pi)` are unbiased weights. The estimators differ in :math:`\pi`, which is uniform or
the one of least variance :math:`\propto \sqrt{E\,KL_t^2}` (Owen 2013, "Monte Carlo theory, methods
and examples", section 9.1; Nichol & Dhariwal 2021, eq. 18, for training), and in whether levels
are drawn independently or one from each of K strata of equal probability.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.base.arguments import check_count
from nelbo.base.errors import NelboError
from nelbo.chain.distributions import drawn_on

# The share of a proposal that is uniform: no weight exceeds 1/share times the uniform one.
UNIFORM_SHARE = 0.1


class ChosenLevels(NamedTuple):
    """Levels in 2..T for each example, neighbouring columns from neighbouring strata, and weights.

    Attributes:
        levels: (B, K) int64.
        weights: (B, K) float64, so that the weighted KLs sum to an unbiased estimate.
    """

    levels: Int[Tensor, "batch evaluated"]
    weights: Float[Tensor, "batch evaluated"]


@dataclass(frozen=True, kw_only=True)
class Estimator(ABC):
    """How the levels and the noise of a bound are drawn, for `TractableMHVAE.elbo`.

    Attributes:
        reconstructions: draws of x_1, of which `Bound.reconstruction` is the mean; two or more
            give its Monte Carlo variance. Zero leaves the term out, nan, for `Bound.merge` with
            rounds that have it.
        antithetic: use every noise ε with both signs, at twice the network evaluations. The mean
            over both is what `Bound` holds for a draw.

    Raises:
        NelboError: fewer than no reconstructions, or fewer than one level.
    """

    reconstructions: int = 2
    antithetic: bool = False

    def __post_init__(self) -> None:
        check_count("reconstructions", self.reconstructions, least=0)

    @abstractmethod
    def choose(
        self, batch: int, num_levels: int, generator: torch.Generator | None = None
    ) -> ChosenLevels:
        """Levels of a chain of `num_levels` for each of `batch` examples, and their weights."""


@dataclass(frozen=True, kw_only=True)
class EveryLevel(Estimator):
    """Every level 2..T once: exact but for one noise draw a level."""

    def choose(
        self, batch: int, num_levels: int, generator: torch.Generator | None = None
    ) -> ChosenLevels:
        """All levels, with weight 1."""
        levels = torch.arange(2, num_levels + 1).expand(batch, -1)
        return ChosenLevels(levels, torch.ones(levels.shape, dtype=torch.float64))


@dataclass(frozen=True, kw_only=True)
class FirstLevel(Estimator):
    """Level 1 alone, for `Bound.merge` with rounds that have the others."""

    def choose(
        self, batch: int, num_levels: int, generator: torch.Generator | None = None
    ) -> ChosenLevels:
        """No levels."""
        levels = torch.empty(batch, 0, dtype=torch.int64)
        return ChosenLevels(levels, levels.double())


@dataclass(frozen=True)
class _Some(Estimator):
    levels: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("levels", self.levels)

    def _strata(self, batch: int, generator: torch.Generator | None) -> Tensor:
        """One place in [0, 1) from each of `levels` equal strata, (batch, levels) float64."""
        jitter = _rand(batch, self.levels, generator)
        return (torch.arange(self.levels, device=jitter.device) + jitter) / self.levels


@dataclass(frozen=True)
class Uniform(_Some):
    """`levels` levels an example, independent and uniform over 2..T: the plain way."""

    def choose(
        self, batch: int, num_levels: int, generator: torch.Generator | None = None
    ) -> ChosenLevels:
        """Uniform levels, each with weight (T − 1) / K."""
        return _uniform_at(_rand(batch, self.levels, generator), num_levels)


@dataclass(frozen=True)
class Stratified(_Some):
    """`levels` levels an example, one drawn from each of as many equal strata of 2..T."""

    def choose(
        self, batch: int, num_levels: int, generator: torch.Generator | None = None
    ) -> ChosenLevels:
        """One level a stratum, each with weight (T − 1) / K."""
        return _uniform_at(self._strata(batch, generator), num_levels)


@dataclass(frozen=True, eq=False)
class Importance(_Some):
    """`levels` levels an example, drawn where they matter, one from each stratum of `proposal`.

    Attributes:
        levels: how many.
        proposal: probability of each of the levels 2..T, (T−1,), all positive; see
            `proposal_from`. Empty for a chain of one level, which has none to draw.

    Raises:
        NelboError: a proposal that is not positive everywhere or does not sum to one.
    """

    proposal: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.proposal) == 0:
            return
        lowest, total = self.proposal.min().item(), self.proposal.double().sum().item()
        if not (lowest > 0 and abs(total - 1) < 1e-6):
            raise NelboError(
                "a proposal gives every level 2..T a positive probability, 1 in all; this one has "
                f"{lowest:.3g} at its lowest and {total:.6g} in all"
            )

    def choose(
        self, batch: int, num_levels: int, generator: torch.Generator | None = None
    ) -> ChosenLevels:
        """One level a stratum of equal probability, with weight 1 / (K π(t)).

        Raises:
            NelboError: a proposal for a chain of another length.
        """
        if len(self.proposal) != num_levels - 1:
            raise NelboError(
                f"the proposal is for a chain of {len(self.proposal) + 1} levels, "
                f"this one has {num_levels}"
            )
        if num_levels == 1:
            return EveryLevel().choose(batch, num_levels)
        place = self._strata(batch, generator)
        proposal = self.proposal.to(place)
        index = torch.searchsorted(proposal.cumsum(0), place, right=True)
        index = index.clamp(max=len(proposal) - 1)
        return ChosenLevels(2 + index, 1.0 / (self.levels * proposal[index]))


def proposal_from(
    score_matching_square: Float[Tensor, " levels"], uniform_share: float = UNIFORM_SHARE
) -> Float[Tensor, " candidates"]:
    r"""The proposal of least variance, :math:`\pi(t) \propto \sqrt{E\,KL_t^2}`, made safe.

    Args:
        score_matching_square: E KL² at each level, (T+1,), as in `LevelProfile`.
        uniform_share: probability that is spread evenly over the levels, so that a level whose
            cost was underestimated cannot have a large weight.

    Raises:
        NelboError: a share outside (0, 1], or a square that is negative or not finite.
    """
    if not 0 < uniform_share <= 1:
        raise NelboError(f"uniform_share must lie in (0, 1], got {uniform_share}")
    square = score_matching_square[2:].double()
    if not (square.isfinite().all() and (square >= 0).all()):
        raise NelboError("E KL² must be finite and not negative at every level")
    uniform = torch.full_like(square, 1 / max(len(square), 1))
    root = square.sqrt()
    if not root.any():
        return uniform
    return uniform_share * uniform + (1 - uniform_share) * root / root.sum()


def as_estimator(levels: int | Estimator | None) -> Estimator:
    """What `elbo(levels=...)` means: all levels, K stratified ones, or an estimator as it is."""
    if isinstance(levels, Estimator):
        return levels
    return EveryLevel() if levels is None else Stratified(levels)


def _uniform_at(place: Tensor, num_levels: int) -> ChosenLevels:
    """The levels at places in [0, 1) along 2..T; none in a chain that has only level 1."""
    candidates = num_levels - 1
    if candidates == 0:
        place = place[:, :0]
    levels = 2 + (place * candidates).long().clamp(max=max(candidates - 1, 0))
    weights = torch.full(levels.shape, candidates / max(place.shape[1], 1), dtype=torch.float64)
    return ChosenLevels(levels, weights)


def _rand(batch: int, count: int, generator: torch.Generator | None) -> Tensor:
    device = drawn_on(generator, torch.get_default_device())
    return torch.rand(batch, count, generator=generator, dtype=torch.float64, device=device)
