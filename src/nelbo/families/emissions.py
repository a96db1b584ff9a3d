r"""What a hidden state emits: a vector of M values, independent of one another given the state.

* `Categorical`: :math:`P(x_m = k | s) = E_{smk}`, over pixel levels.
* `Gaussian`: :math:`N(\mu_{sm}, v_{sm})`; of pixels, the probability of its bin.

Each is fitted to values of which every one belongs to each state with some weight: `moments` sums
them up, `maximise` turns the sums into parameters, as EM asks. Sums of batches add up.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from nelbo.chain.data_space import DataSpace
from nelbo.chain.distributions import DiscretizedNormal, randn_like
from nelbo.families.noise import choose
from nelbo.families.rounding import least_variance, nearest_pixels

# The logarithm of nothing, which may be multiplied by zero.
_LOG_ZERO = -1e300
# The prior's share of a level that was never seen.
_ROUGHLY = 1.0


class Emission(ABC):
    """A distribution of M values for each of S states.

    Args:
        space: what the values are.
    """

    def __init__(self, space: DataSpace) -> None:
        self.space = space

    @abstractmethod
    def shapes(self, states: int, values: int) -> tuple[int, ...]:
        """The shape of the tensor of parameters, and of that of moments."""

    @abstractmethod
    def log_likelihood(
        self, parameters: Tensor, x: Float[Tensor, "batch length values"]
    ) -> Float[Tensor, "batch length states"]:
        """log p(x_t | s_t) in nats, x in network space."""

    @abstractmethod
    def moments(
        self, x: Float[Tensor, "batch length values"], states: Float[Tensor, "batch length states"]
    ) -> Tensor:
        """The sums over all x that `maximise` needs, weighted by the probability of each state."""

    @abstractmethod
    def maximise(self, moments: Tensor, pseudocount: float = 0.0) -> Tensor:
        """The parameters of most likelihood, after `pseudocount` values of the overall mean."""

    @abstractmethod
    def draw(
        self, parameters: Tensor, states: Tensor, generator: torch.Generator | None
    ) -> Float[Tensor, "batch values"]:
        """One x for each of the states (B,), in network space."""

    @abstractmethod
    def log_table(self, parameters: Tensor) -> Float[Tensor, "states values levels"]:
        """log P of every pixel level of each value, nats."""

    def log_density(
        self, parameters: Tensor, x: Float[Tensor, "batch length values"]
    ) -> Float[Tensor, "batch length states"]:
        """What EM raises in place of `log_likelihood`, where the M-step is closed form."""
        return self.log_likelihood(parameters, x)


class Categorical(Emission):
    """A table of probabilities; parameters and moments are (S, M, L)."""

    def shapes(self, states: int, values: int) -> tuple[int, ...]:
        """(S, M, L)."""
        return (states, values, self.space.shown_levels)

    def log_likelihood(
        self, parameters: Tensor, x: Float[Tensor, "batch length values"]
    ) -> Float[Tensor, "batch length states"]:
        """The sum of the logarithms of the table's entries."""
        states, values, levels = parameters.shape
        table = self.log_table(parameters).permute(1, 2, 0).reshape(-1, states)
        rows = self.space.to_levels(x) + torch.arange(values, device=x.device) * levels
        return embedding_bag(rows.flatten(0, 1), table, mode="sum").unflatten(0, x.shape[:2])

    def log_table(self, parameters: Tensor) -> Float[Tensor, "states values levels"]:
        """The logarithm of the table."""
        return parameters.log().clamp(min=_LOG_ZERO)

    def moments(
        self, x: Float[Tensor, "batch length values"], states: Float[Tensor, "batch length states"]
    ) -> Tensor:
        """How often each level is expected from each state."""
        k, weight = self.space.to_levels(x).flatten(0, 1), states.flatten(0, 1)
        total = weight.new_zeros(k.shape[1], self.space.shown_levels, weight.shape[1])
        for column, seen in zip(total, k.T, strict=True):
            column.index_add_(0, seen, weight)
        return total.permute(2, 0, 1)

    def maximise(self, moments: Tensor, pseudocount: float = 0.0) -> Tensor:
        """Expected frequencies, with as many of the overall ones as `pseudocount`."""
        overall = moments.sum(0) + _ROUGHLY / moments.shape[2]
        overall = overall / overall.sum(1, keepdim=True)
        counts = moments + (pseudocount + 1e-12) * overall
        return counts / counts.sum(2, keepdim=True)

    def draw(
        self, parameters: Tensor, states: Tensor, generator: torch.Generator | None
    ) -> Float[Tensor, "batch values"]:
        """A level for each value."""
        p = parameters[states].flatten(0, 1)
        k = choose(p, generator).view(len(states), -1)
        return self.space.to_network(k)


class Gaussian(Emission):
    """A diagonal normal; parameters (2, S, M) are means and variances."""

    def shapes(self, states: int, values: int) -> tuple[int, ...]:
        """(2, S, M)."""
        return (2, states, values)

    def log_likelihood(
        self, parameters: Tensor, x: Float[Tensor, "batch length values"]
    ) -> Float[Tensor, "batch length states"]:
        """The density; of pixels the probability of their bins."""
        if self.space.is_density:
            return self.log_density(parameters, x)
        mean, variance = parameters
        # One state at a time: a bin has some twenty temporary values.
        columns = [
            DiscretizedNormal(m.expand_as(x), v.sqrt(), self.space.shown_levels).log_prob(x).sum(2)
            for m, v in zip(mean, variance, strict=True)
        ]
        return torch.stack(columns, 2)

    def log_density(
        self, parameters: Tensor, x: Float[Tensor, "batch length values"]
    ) -> Float[Tensor, "batch length states"]:
        """The logarithm of the density."""
        mean, variance = parameters
        square = ((x[:, :, None] - mean).square() / variance).sum(3)
        return -0.5 * (square + (2 * math.pi * variance).log().sum(1))

    def log_table(self, parameters: Tensor) -> Float[Tensor, "states values levels"]:
        """The probabilities of all bins."""
        mean, variance = parameters
        return DiscretizedNormal(mean, variance.sqrt(), self.space.shown_levels).log_probs()

    def moments(
        self, x: Float[Tensor, "batch length values"], states: Float[Tensor, "batch length states"]
    ) -> Tensor:
        """Weights, sums and sums of squares, (3, S, M)."""
        weight, flat = states.flatten(0, 1), x.flatten(0, 1)
        first, second = weight.T @ flat, weight.T @ flat.square()
        return torch.stack([weight.sum(0)[:, None].expand_as(first), first, second])

    def maximise(self, moments: Tensor, pseudocount: float = 0.0) -> Tensor:
        """Weighted means and variances, drawn to the overall ones by `pseudocount`."""
        overall = moments.sum(1, keepdim=True)
        weight, first, second = moments + (pseudocount + 1e-12) * overall / overall[0]
        mean = first / weight
        variance = (second / weight - mean.square()).clamp(min=least_variance(self.space))
        return torch.stack([mean, variance])

    def draw(
        self, parameters: Tensor, states: Tensor, generator: torch.Generator | None
    ) -> Float[Tensor, "batch values"]:
        """A normal draw; of pixels, rounded."""
        mean, variance = parameters[:, states]
        noise = randn_like(mean, generator)
        return nearest_pixels(mean + variance.sqrt() * noise, self.space)


EMISSIONS: dict[str, type[Emission]] = {"categorical": Categorical, "gaussian": Gaussian}
