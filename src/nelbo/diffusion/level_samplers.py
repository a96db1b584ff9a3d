r"""Which level each example of a training batch is at.

A loss :math:`\sum_t \ell_t` over the levels of a chain is estimated without bias by
:math:`\ell_t / \pi(t)` at a level drawn from any :math:`\pi` that leaves none out. What is chosen
is the variance:

* ``uniform``: every example draws on its own from the objective's own :math:`\pi`;
* ``low_discrepancy``: one draw shifts a regular grid over :math:`\pi` for the whole batch
  (Kingma et al. 2021, appendix I.1), so that each batch covers all of the chain;
* ``importance``: the same grid over :math:`\pi(t) \propto \sqrt{E[\ell_t^2]}`, which has the least
  variance, from the last losses of each level (Nichol & Dhariwal 2021, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.base.arguments import check_choice
from nelbo.base.errors import NelboError
from nelbo.chain.distributions import drawn_on

LEVEL_SAMPLERS = ("uniform", "low_discrepancy", "importance")

# What the second moment of a level's loss is taken over, and the share of π that stays uniform.
HISTORY = 10
UNIFORM_SHARE = 1e-3


class LevelSampler:
    """Draws levels from one distribution.

    Args:
        probabilities: π of the levels 1..T, (T,).
        spread: shift a grid over π for the whole batch, rather than draw each level on its own.

    Attributes:
        learns: whether π follows the losses given to `update`.

    Raises:
        NelboError: probabilities that are not positive or do not sum to one.
    """

    learns = False

    def __init__(self, probabilities: Float[Tensor, " T"], *, spread: bool = True) -> None:
        total = float(probabilities.sum())
        if not (bool((probabilities > 0).all()) and abs(total - 1) < 1e-6):
            raise NelboError(
                "probabilities of levels must be positive and sum to 1, so that the loss stays "
                f"unbiased; the least is {float(probabilities.min())}, their sum {total}"
            )
        self._initial = probabilities.double().cpu()
        self.spread = spread

    @property
    def probabilities(self) -> Float[Tensor, " T"]:
        """π now, (T,) float64."""
        return self._initial

    def draw(
        self,
        batch: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
        """A level for each example, and its weight 1/π(t), float32."""
        source = drawn_on(generator, torch.device(device))
        # Levels may be rarer than float32 numbers in [0, 1) are close.
        dtype = torch.float32 if source.type == "mps" else torch.float64
        shape = () if self.spread else (batch,)
        place = torch.rand(shape, generator=generator, device=source, dtype=dtype).cpu().double()
        if self.spread:
            place = (place + torch.arange(batch, dtype=torch.float64) / batch) % 1.0
        probabilities = self.probabilities
        edges = probabilities.cumsum(0)
        index = torch.searchsorted(edges, place, right=True).clamp(max=len(edges) - 1)
        weight = 1 / probabilities[index]
        return (index + 1).to(device), weight.float().to(device)

    def update(self, levels: Int[Tensor, " batch"], losses: Float[Tensor, " batch"]) -> None:
        """Take in the losses of a batch, without their weights 1/π; every process the same."""

    def state(self) -> dict[str, Tensor]:
        """What the losses so far have left, to go on from."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""


class ImportanceSampler(LevelSampler):
    """Draws levels in proportion to the root mean square of their last losses.

    Until every level has been seen as often as its history is long, it draws from the
    probabilities that it was given.

    Args:
        probabilities: π to begin with, (T,).
        history: losses kept of each level.
        uniform_share: share of π that stays uniform, so that no level is forgotten.

    Raises:
        NelboError: probabilities that are not positive or do not sum to one.
    """

    learns = True

    def __init__(
        self,
        probabilities: Float[Tensor, " T"],
        *,
        history: int = HISTORY,
        uniform_share: float = UNIFORM_SHARE,
    ) -> None:
        super().__init__(probabilities)
        self.uniform_share = uniform_share
        self._losses = torch.zeros(len(probabilities), history, dtype=torch.float64)
        self._seen = torch.zeros(len(probabilities), dtype=torch.int64)

    @property
    def probabilities(self) -> Float[Tensor, " T"]:
        """π now, (T,) float64."""
        T, history = self._losses.shape
        if bool((self._seen < history).any()):
            return self._initial
        size = self._losses.square().mean(1).sqrt()
        total = size.sum()
        if total == 0:
            return self._initial
        return (1 - self.uniform_share) * size / total + self.uniform_share / T

    def update(self, levels: Int[Tensor, " batch"], losses: Float[Tensor, " batch"]) -> None:
        """Take in the losses of a batch, without their weights 1/π; every process the same."""
        history = self._losses.shape[1]
        for level, loss in zip(levels.tolist(), losses.tolist(), strict=True):
            seen = self._seen[level - 1]
            self._losses[level - 1, seen % history] = loss
            seen += 1

    def state(self) -> dict[str, Tensor]:
        """The last losses of each level, (T, history), and how many there were, (T,)."""
        return {"losses": self._losses.clone(), "seen": self._seen.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state.

        Raises:
            NelboError: a state of another chain or history.
        """
        found = {name: tuple(value.shape) for name, value in state.items()}
        expected = {name: tuple(value.shape) for name, value in self.state().items()}
        if found != expected:
            raise NelboError(f"the state of the level sampler has {found}, expected {expected}")
        self._losses, self._seen = state["losses"].clone(), state["seen"].clone()


def level_probabilities(T: int, first_share: float | None = None) -> Float[Tensor, " T"]:
    """Level 1 with probability `first_share`, the others equally likely; by default all, (T,)."""
    if first_share is None or T == 1:
        return torch.full((T,), 1 / T, dtype=torch.float64)
    rest = torch.full((T - 1,), (1 - first_share) / (T - 1), dtype=torch.float64)
    return torch.nn.functional.pad(rest, (1, 0), value=first_share)


def shifted_probabilities(T: int, shift: float) -> Float[Tensor, " T"]:
    r"""Levels moved towards the noise, or away from it where the shift is below 1, (T,).

    A level at :math:`T u`, u uniform, moves to :math:`T s u / (1 + (s - 1) u)` (Esser et al. 2024,
    eq. 23), so that :math:`\pi(t) = F(t/T) - F((t-1)/T)` with :math:`F(v) = v / (s - (s - 1) v)`.

    Raises:
        NelboError: a shift that is not positive.
    """
    if not (shift > 0 and math.isfinite(shift)):
        raise NelboError(f"the shift of levels must be a positive number, got {shift}")
    place = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    return (place / (shift - (shift - 1) * place)).diff()


def make_level_sampler(name: str, probabilities: Float[Tensor, " T"]) -> LevelSampler:
    """The level sampler of that name.

    Raises:
        NelboError: an unknown name.
    """
    if name == "importance":
        return ImportanceSampler(probabilities)
    check_choice("level sampler", name, LEVEL_SAMPLERS)
    return LevelSampler(probabilities, spread=name == "low_discrepancy")
