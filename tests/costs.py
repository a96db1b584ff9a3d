"""A model whose costs are drawn from a distribution of one's choice: no network, any tail."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nelbo import Bound, NoiseSchedule
from nelbo.chain.estimators import as_estimator
from nelbo.chain.variances import variance_of_mean
from nelbo.data import ImageData
from nelbo.diffusion import Diffusion, Pixels

Draw = Callable[[tuple[int, ...], torch.Generator | None], Tensor]

# Nine values of a pixel that is nearly constant; the cost of each is −log of its probability.
_SHARES = torch.tensor([0.996, 0.001] + [0.0005] * 5 + [0.00025] * 2, dtype=torch.float64)
_SHARES = _SHARES / _SHARES.sum()


def exponential(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return -(1 - torch.rand(shape, generator=generator, dtype=torch.float64)).log()


def squared(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).square()


def normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return 3 + torch.randn(shape, generator=generator, dtype=torch.float64)


def lognormal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).exp()


def nearly_constant(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    place = torch.rand(shape, generator=generator, dtype=torch.float64)
    drawn = torch.searchsorted(_SHARES.cumsum(0), place).clamp(max=len(_SHARES) - 1)
    return -_SHARES.log()[drawn]


# Each distribution with its mean and its second moment.
COSTS: dict[str, tuple[Draw, float, float]] = {
    "exponential": (exponential, 1.0, 2.0),
    "squared": (squared, 1.0, 3.0),
    "normal": (normal, 3.0, 10.0),
    "lognormal": (lognormal, math.exp(0.5), math.exp(2.0)),
    "nearly constant": (
        nearly_constant,
        float(-(_SHARES * _SHARES.log()).sum()),
        float((_SHARES * _SHARES.log().square()).sum()),
    ),
}


class CostModel(Diffusion):
    """Images of one pixel: −log p(x_0|x_1) and every level's KL times T − 1 are draws of `kind`."""

    def __init__(self, kind: str, T: int = 11) -> None:
        schedule = NoiseSchedule.linear(T, 0.05, 0.4)
        super().__init__(torch.nn.Linear(1, 1), schedule, data=Pixels(9), shape=(1, 1, 1))
        self.draw, self.mean, self.second_moment = COSTS[kind]
        self.calls = 0

    @property
    def exact(self) -> float:
        """The mean bound, bits per dimension."""
        return 2 * self.mean / math.log(2.0)

    def images(self, n: int) -> ImageData:
        names = tuple(f"{i}.png" for i in range(n))
        return ImageData("made", torch.zeros(n, 1, 1, 1, dtype=torch.uint8), 9, names)

    def elbo(self, x_0, condition=None, *, levels=None, generator=None) -> Bound:
        estimator, n = as_estimator(levels), len(x_0)
        chosen, weights = estimator.choose(n, self.num_levels, generator)
        first = self.draw((n, estimator.reconstructions), generator)
        above = self.draw(tuple(chosen.shape), generator) / (self.num_levels - 1)
        counts = (estimator.reconstructions, chosen.shape[1])
        self.calls += n * sum(counts)
        return Bound(
            reconstruction=-first.mean(1),
            prior_matching=torch.zeros(n, dtype=torch.float64),
            score_matching=above,
            levels=chosen,
            weights=weights,
            dims=1,
            reconstruction_variance=variance_of_mean(first),
            reconstruction_calls=torch.full((n,), counts[0]),
            level_calls=torch.full((n,), counts[1]),
        )
