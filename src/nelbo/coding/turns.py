r"""How many images of a stack are coded at a time.

The draws of an image take bits off the stack before it puts its own there. What lies on the stack
pays for the draws of several at once, the more the longer it is. So the images of a stack are coded
in turns, the first ones alone and later many together, which then share each network call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import draw
from nelbo.chain.estimate import Estimate
from nelbo.chain.terms import per_example

# A share of the images so far is counted in these.
_PARTS = 64
# The most images of a turn, and about the most values.
_MOST, _VALUES = 64, 2**16
# The grid of the first turn is 2⁴ times coarser, of the second 2³ times, and so on.
_COARSER = 4


@dataclass(frozen=True)
class Turns:
    """The turns of a stack.

    Attributes:
        share: the images of a turn, in 64ths of those before it; at least one.
        most: the images of a turn at most.
        coarser: log₂ of how much coarser the grid of the first turn is; of those after it, one
            less each.
    """

    share: int
    most: int
    coarser: int

    def of(self, count: int) -> list[range]:
        """Which images each turn has, of a number on a stack."""
        turns, done = [], 0
        while done < count:
            size = max(1, min(done * self.share // _PARTS, self.most))
            turns.append(range(done, min(done + size, count)))
            done = turns[-1].stop
        return turns

    @classmethod
    @torch.no_grad()
    def paid_for(
        cls,
        chain: Any,
        x_0: Tensor,
        condition: Condition | None,
        grid: Sequence[int],
        generator: torch.Generator,
    ) -> Self:
        """Turns as large as those before surely pay for, by one path of each of some examples.

        Examples differ in how much they leave on the stack: what counts is two standard errors
        below their mean.

        Args:
            chain: an `MHVAE`.
            x_0: examples in data space, (n, ...).
            condition: that of each.
            grid: log₂ of the grid's step at each level from 0.
            generator: of the paths.
        """

        def bits(given: Distribution, value: Tensor, t: int) -> Tensor:
            cost = -per_example(given.log_prob(value)).double() / math.log(2)
            return cost if t == 0 else cost - grid[t] * value[0].numel()

        x, taken, depth = x_0, torch.zeros(len(x_0), device=x_0.device), 1.0
        for t in range(1, chain.num_levels + 1):
            q = chain.q_step(x, t)
            x_t = draw(q, generator)
            taken = taken + bits(q, x_t, t)
            depth = max(depth, taken.mean().item())
            taken = taken - bits(chain.p_below(x_t, t, condition), x, t - 1)
            x = x_t
        growth = Estimate.of(bits(chain.p_prior(tuple(x.shape)), x, chain.num_levels) - taken)
        sure = growth.mean - (2 * growth.standard_error if len(x_0) > 1 else 0.0)
        values = max(x[0].numel(), x_0[0].numel())
        share = max(0, math.floor(_PARTS * sure / depth))
        return cls(share, max(1, min(_MOST, _VALUES // values)), _COARSER)
