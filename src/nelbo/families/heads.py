r"""The distribution of the next value, from what a network makes of those before.

* `Softmax`: a probability for each of L pixel levels.
* `LogisticMixture`: :math:`\sum_j \pi_j\, \mathrm{Logistic}(\mu_j, s_j)` (Salimans et al. 2017).
  Of pixels it is the probability of the bin :math:`[x - h, x + h]`, the first and the last open to
  ∓∞: with :math:`a = (x + h - \mu)/s` and :math:`b = (x - h - \mu)/s`

  .. math:: \sigma(a) - \sigma(b) = \sigma(a)\, \sigma(-b)\, (1 - e^{b - a}),

  whose logarithm neither cancels nor underflows. Of continuous data it is the density.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from nelbo.chain.data_space import DataSpace
from nelbo.chain.distributions import rand_like
from nelbo.families.noise import choose
from nelbo.families.rounding import nearest_pixels

# Pixels of more levels than these have a mixture, whose neighbouring levels are alike.
_MOST_CLASSES = 64
_COMPONENTS = 10
_LEAST_LOG_SCALE = -7.0


class Head(nn.Module, ABC):
    """A layer from features to a distribution of one value."""

    @abstractmethod
    def log_prob(
        self, features: Float[Tensor, "*batch width"], x: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """log P(x) of each value in network space, or log p(x); nats."""

    @abstractmethod
    def draw(
        self, features: Float[Tensor, "batch width"], generator: torch.Generator | None
    ) -> Float[Tensor, " batch"]:
        """A value for each, in network space."""


class Softmax(Head):
    """A probability for each pixel level."""

    def __init__(self, width: int, space: DataSpace) -> None:
        super().__init__()
        self.space = space
        self.logits = nn.Linear(width, space.shown_levels)

    def log_prob(
        self, features: Float[Tensor, "*batch width"], x: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """The logarithm of the level's softmax."""
        k = self.space.to_levels(x)
        return self.logits(features).log_softmax(-1).gather(-1, k[..., None])[..., 0]

    def draw(
        self, features: Float[Tensor, "batch width"], generator: torch.Generator | None
    ) -> Float[Tensor, " batch"]:
        """A level for each."""
        p = self.logits(features).softmax(-1)
        return self.space.to_network(choose(p, generator))


class LogisticMixture(Head):
    """A mixture of logistics, rounded to pixel levels or as it is."""

    def __init__(self, width: int, space: DataSpace) -> None:
        super().__init__()
        self.space = space
        self.mixture = nn.Linear(width, 3 * _COMPONENTS)
        with torch.no_grad():
            self.mixture.bias[_COMPONENTS : 2 * _COMPONENTS] = torch.linspace(-1, 1, _COMPONENTS)
            self.mixture.bias[2 * _COMPONENTS :] = math.log(0.2)

    def log_prob(
        self, features: Float[Tensor, "*batch width"], x: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """The logarithm of the bin's probability, or of the density."""
        log_weight, mean, log_scale = self.components(features)
        from_mean, inverse = x[..., None] - mean, (-log_scale).exp()
        if self.space.is_density:
            z = from_mean * inverse
            each = logsigmoid(z) + logsigmoid(-z) - log_scale
            return (log_weight + each).logsumexp(-1)
        half = 1 / (self.space.shown_levels - 1)
        below_upper = logsigmoid((from_mean + half) * inverse)
        above_lower = logsigmoid((half - from_mean) * inverse)
        width = torch.log(-torch.expm1(-2 * half * inverse))
        first, last = (x < half - 1)[..., None], (x > 1 - half)[..., None]
        inside = below_upper + above_lower + width
        each = torch.where(first, below_upper, torch.where(last, above_lower, inside))
        return (log_weight + each).logsumexp(-1)

    def draw(
        self, features: Float[Tensor, "batch width"], generator: torch.Generator | None
    ) -> Float[Tensor, " batch"]:
        """A component for each, then a logistic draw; of pixels, rounded."""
        log_weight, mean, log_scale = self.components(features)
        which = choose(log_weight.exp(), generator)[:, None]
        mean, log_scale = mean.gather(1, which)[:, 0], log_scale.gather(1, which)[:, 0]
        unit = rand_like(mean, generator).clamp(1e-6, 1 - 1e-6)
        return nearest_pixels(mean + log_scale.exp() * unit.logit(), self.space)

    def components(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log π, μ and log s of each component, each (..., J)."""
        logits, mean, log_scale = self.mixture(features).chunk(3, -1)
        return logits.log_softmax(-1), mean, log_scale.clamp(min=_LEAST_LOG_SCALE)


def has_classes(space: DataSpace) -> bool:
    """Whether the levels of pixels are so few that each is a class."""
    return not space.is_density and space.shown_levels <= _MOST_CLASSES


def head_for(width: int, space: DataSpace) -> Head:
    """What suits the data: a softmax for few pixel levels, else a mixture of logistics."""
    return Softmax(width, space) if has_classes(space) else LogisticMixture(width, space)
