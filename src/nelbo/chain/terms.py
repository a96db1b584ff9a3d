r"""Drawing the terms of a bound: each an expectation over one latent, many in one network call.

A term is a function of :math:`(x_0, x_t)` at a level t, of each value of an example, for every
distribution here factorises. It is drawn at :math:`x_t \sim q(x_t|x_0)`, for several levels of each
example, where :math:`x_0` itself may be drawn first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from nelbo.base.errors import NotFiniteError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import draw
from nelbo.chain.estimators import ChosenLevels, Estimator
from nelbo.chain.variances import variance_of_mean

# Values of one stacked network call when many levels are evaluated: large enough to fill the
# cores, small enough to stay in their caches.
VALUES_PER_CALL = 2**16

# (x_0, x_t, t, condition) -> nats of each value, (B, ...)
Term = Callable[[Tensor, Tensor, Tensor, Condition | None], Tensor]
# (x_0, t) -> q(x_t|x_0)
Marginal = Callable[[Tensor, Tensor], Distribution]


class Drawing(NamedTuple):
    """How the terms of a bound are drawn.

    Attributes:
        estimator: which levels, how often, and whether with mirrored noise.
        generator: the source of all noise.
        by_value: whether to add up what each value of an example costs as well.
    """

    estimator: Estimator
    generator: torch.Generator | None = None
    by_value: bool = False


@dataclass(frozen=True)
class Draws:
    """A term at some levels of each example, nats.

    Attributes:
        levels: the levels, (B, K) int64.
        weights: of each, (B, K).
        values: the term at one draw of x_t, or the mean of a mirrored pair, (B, K).
        total: the weighted sum over levels of each value of an example, (B, ...); zero unless
            `Drawing.by_value`.
        calls: network evaluations of each example, (B,) int64.
    """

    levels: Int[Tensor, "batch columns"]
    weights: Float[Tensor, "batch columns"]
    values: Float[Tensor, "batch columns"]
    total: Float[Tensor, "batch ..."]
    calls: Int[Tensor, " batch"]

    @classmethod
    def none(cls, like: Float[Tensor, "batch ..."]) -> Draws:
        """No draws of a term of examples like these."""
        nothing = like.new_zeros(len(like), 0)
        levels = nothing.long()
        return cls(levels, nothing, nothing, torch.zeros_like(like), levels.sum(1))

    def with_draw(self, value: Tensor, by_value: Tensor, calls: Tensor | int, count: int) -> Draws:
        """One more draw at level 1, of `count` in all, (B,), and the same by value."""
        column = value[:, None]
        return Draws(
            torch.cat([self.levels, torch.ones_like(column, dtype=torch.int64)], 1),
            torch.cat([self.weights, torch.full_like(column, 1 / count)], 1),
            torch.cat([self.values, column], 1),
            self.total + by_value / count,
            self.calls + calls,
        )

    @property
    def mean(self) -> Float[Tensor, " batch"]:
        """The mean of all draws, where they are of one level; nan without any."""
        return self.values.mean(1)

    @property
    def variance(self) -> Float[Tensor, " batch"]:
        """Monte Carlo variance of that mean, estimated from the draws; nan for one."""
        return variance_of_mean(self.values.detach())


def draw_term(
    term: Term,
    marginal: Marginal,
    x_0: Tensor | Distribution,
    chosen: ChosenLevels,
    condition: Condition | None,
    drawing: Drawing,
) -> Draws:
    """A term at one draw of x_t, or a mirrored pair, for each chosen level of each example.

    Args:
        term: of each value.
        marginal: q(x_t|x_0).
        x_0: data, (B, ...), or a distribution of it, of which each level has a draw of its own.
        chosen: the levels and their weights.
        condition: what the model is conditioned on for each example.
        drawing: how to draw.
    """
    like = x_0.mean if isinstance(x_0, Distribution) else x_0
    levels = chosen.levels.to(like.device)
    # The weights of half precision states sum to T − 1 in float32 alone.
    weights = chosen.weights.to(like.device, torch.promote_types(like.dtype, torch.float32))
    generator, antithetic = drawing.generator, drawing.estimator.antithetic
    batch, signs = len(like), 2 if antithetic else 1
    # Several columns share a network call on (level, example) pairs.
    group = max(1, VALUES_PER_CALL // max(1, signs * like.numel()))
    found, total = [like.new_zeros(batch, 0)], torch.zeros_like(like)
    for start in range(0, levels.shape[1], group):
        columns = levels[:, start : start + group].unbind(1)
        data, x_t, repeat = [], [], signs * len(columns)
        for t in columns:
            data.append(draw(x_0, generator) if isinstance(x_0, Distribution) else x_0)
            q = marginal(data[-1], t)
            x_t.append(draw(q, generator))
            if antithetic:
                data.append(data[-1])
                x_t.append(2 * q.mean - x_t[-1])
        costs = term(
            torch.cat(data),
            torch.cat(x_t),
            torch.cat([t for t in columns for _ in range(signs)]),
            None if condition is None else condition.repeat(repeat),
        ).unflatten(0, (len(columns), signs, batch))
        found.append(costs.flatten(3).sum(3).mean(1).T)
        if drawing.by_value:
            share = weights[:, start : start + group].T
            share = share.view(*share.shape, *[1] * (like.ndim - 1))
            total = total + (share * costs.mean(1)).sum(0)
    calls = torch.full((batch,), signs * levels.shape[1], device=like.device)
    values = torch.cat(found, 1)
    _check_finite(values, levels)
    return Draws(levels, weights, values, total, calls)


def _check_finite(values: Tensor, levels: Tensor) -> None:
    """Raise `NotFiniteError` for terms that are not finite, of which no mean is."""
    bad = ~values.isfinite()
    if not bad.any():
        return
    first = int(levels[bad].min())
    raise NotFiniteError(
        f"{int(bad.sum())} of {bad.numel()} terms of the bound are not finite, the first at level "
        f"{first}: what the network predicts there is nan, infinite or too large. Its weights have "
        "diverged, or it overflows in its precision"
    )


def per_example(x: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """The sum over everything but the batch."""
    return x.flatten(1).sum(1)
