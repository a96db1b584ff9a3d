r"""Bits-back coding of one example after the other along a chain of latents.

.. math::
    x_1 \sim q(x_1|x_0) \text{ popped}, \quad x_0 \text{ pushed under } p(x_0|x_1), \quad
    x_2 \sim q(x_2|x_1) \text{ popped}, \quad x_1 \text{ pushed under } p(x_1|x_2), \dots

and at last :math:`x_T` under :math:`p(x_T)` (Townsend et al. 2019; Kingma, Abbeel & Ho 2019,
algorithm 1). What the stack grows by is :math:`\log_2 q(x_{1:T}|x_0) - \log_2 p(x_{0:T})`, whose
mean is the bound. Decoding does the opposite in the opposite order, and gives back the bits that
were popped, so that only the first example pays for its draws.

A latent of level t is an integer k, :math:`x_t = k \delta_t`, with a step :math:`\delta_t` that is
fine against the narrower of :math:`q(x_t|x_{t-1})` and :math:`p(x_t|x_{t+1})`. Since encoder and
decoder take the mass of the same bins, the only loss is that a latent is a bin's middle. The first
examples take a coarser grid, on which draws take fewer bits.

Several stacks are coded side by side, an example of each at a time, so that a network call has one
example of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from nelbo.chain.conditioning import Condition
from nelbo.coding.agreement import TOLERANCE, Agreement
from nelbo.coding.arithmetic import LOG_STEPS, scale_of
from nelbo.coding.distributions import Coded, GridNormal, PixelNormal
from nelbo.coding.stack import Stack

# A step of the grid is at most this share of the narrower standard deviation, and a mean is
# rounded to a part of such a step.
FINE, PARTS = 6, 4
# What a network gives is of this size, for the error of its output.
_OUTPUT = 8.0


@dataclass
class Lane:
    """A stack with what encoder and decoder agreed on, and the place of its example in it."""

    stack: Stack
    agreement: Agreement
    position: int = 0


@dataclass
class Part:
    """Some examples.

    Attributes:
        x_0: in data space, (n, ...); a decoder fills it.
        index: which of all examples they are.
        condition: that of some of all examples, by index.
    """

    x_0: Tensor
    index: Sequence[int]
    condition: Callable[[Sequence[int]], Condition | None]


@dataclass(frozen=True)
class ChainCode:
    """Codes examples along a chain.

    Attributes:
        chain: an `MHVAE` of float64.
        steps: log₂ of δ_t for t in 0..T; at 0 that of the mean of p(x_0|x_1), in data space.
        levels: the pixel levels of x_0.
        values: the largest number of values of any level.
        coarser: log₂ of how much coarser the grid of the first example is; of those after it, one
            less each.
        dtype: of the network's inputs; outputs of float64 are agreed on, others must be the same.
    """

    chain: Any
    steps: Sequence[int]
    levels: int
    values: int
    coarser: int
    dtype: torch.dtype

    @cached_property
    def _errors(self) -> dict[str, list[float]]:
        """How far the means of another machine may be, by side and level."""
        tolerance = TOLERANCE if self.dtype == torch.float64 else 0.0
        return {
            side: (self.chain.sensitivity(side) * tolerance * _OUTPUT).tolist() for side in "qp"
        }

    def ground(self) -> int:
        """The words below a stack: more than the draws of one example take off."""
        return (self.chain.num_levels + 2) * self.values

    @torch.no_grad()
    def push(self, lanes: Sequence[Lane], blocks: Sequence[Part]) -> None:
        """Push the examples of a block on each stack, the first one first."""
        for position in range(max(len(block.index) for block in blocks)):
            turn = _turn(lanes, blocks, position)
            x_0 = torch.stack([block.x_0[position] for _, block in turn])
            self._push([lane for lane, _ in turn], x_0, _conditions(turn, position))

    @torch.no_grad()
    def pop(self, lanes: Sequence[Lane], blocks: Sequence[Part]) -> None:
        """Pop the examples of a block of each stack, the last one first, into `x_0`."""
        for position in reversed(range(max(len(block.index) for block in blocks))):
            turn = _turn(lanes, blocks, position)
            x_0 = self._pop([lane for lane, _ in turn], _conditions(turn, position))
            for (_, block), example in zip(turn, x_0, strict=True):
                block.x_0[position] = example

    def _push(self, lanes: Sequence[Lane], x_0: Tensor, condition: Condition | None) -> None:
        """Push an example on each stack.

        Args:
            lanes: the stacks.
            x_0: an example for each, in data space, of `dtype`.
            condition: what the model is conditioned on for each.
        """
        chain, x = self.chain, x_0
        pixels = (
            ((x_0.flatten(1).double() + 1.0) * ((self.levels - 1) / 2)).round().long().cpu().numpy()
        )
        values = list(pixels)
        for t in range(1, chain.num_levels + 1):
            q = chain.q_step(x, t)
            draws = self._coded(lanes, q, t, "q")
            drawn = [code.pop(lane.stack) for lane, code in zip(lanes, draws, strict=True)]
            x_t = self._states(lanes, drawn, t, q.mean)
            given = self._p(x_t, t, condition)
            for lane, code, value in zip(
                lanes, self._coded(lanes, given, t - 1, "p"), values, strict=True
            ):
                code.push(lane.stack, value)
            x, values = x_t, drawn
        last = self._coded(lanes, chain.p_prior(tuple(x.shape)), chain.num_levels, "p")
        for lane, code, value in zip(lanes, last, values, strict=True):
            code.push(lane.stack, value)

    def _pop(self, lanes: Sequence[Lane], condition: Condition | None) -> Tensor:
        """Pop the last example of each stack, in data space; arguments as `_push`."""
        chain = self.chain
        x = chain.start(len(lanes))
        prior = chain.p_prior(tuple(x.shape))
        values = [
            code.pop(lane.stack)
            for lane, code in zip(
                lanes, self._coded(lanes, prior, chain.num_levels, "p"), strict=True
            )
        ]
        x = self._states(lanes, values, chain.num_levels, x)
        for t in range(chain.num_levels, 0, -1):
            given = self._p(x, t, condition)
            below = [
                code.pop(lane.stack)
                for lane, code in zip(lanes, self._coded(lanes, given, t - 1, "p"), strict=True)
            ]
            x_below = self._states(lanes, below, t - 1, given.mean)
            draws = self._coded(lanes, chain.q_step(x_below, t), t, "q")
            for lane, code, value in zip(lanes, draws, values, strict=True):
                code.push(lane.stack, value)
            x, values = x_below, below
        return x

    def _p(self, x_t: Tensor, t: int, condition: Condition | None) -> Distribution:
        """p(x_{t−1}|x_t)."""
        return self.chain.p_data(x_t, condition) if t == 1 else self.chain.p_step(x_t, t, condition)

    def _step(self, lane: Lane, t: int) -> float:
        """δ_t for the example of a stack; the first ones take a coarser one."""
        return 2.0 ** (self.steps[t] + max(0, self.coarser - lane.position))

    def _states(self, lanes: Sequence[Lane], values: Sequence[Any], t: int, like: Tensor) -> Tensor:
        """The states that integers stand for, of the shape of `like`."""
        if t == 0:
            rows = [2.0 * value / (self.levels - 1) - 1.0 for value in values]
        else:
            rows = [value * self._step(lane, t) for lane, value in zip(lanes, values, strict=True)]
        return torch.from_numpy(np.stack(rows)).view(like.shape).to(like.device, self.dtype)

    def _coded(self, lanes: Sequence[Lane], given: Distribution, t: int, side: str) -> list[Coded]:
        """What the values of level t of each example are coded under.

        Args:
            lanes: the stacks.
            given: q(x_t|x_{t−1}) or p(x_t|x_{t+1}) of each example.
            t: the level.
            side: "q" or "p".
        """
        part = 2.0 ** self.steps[t] / PARTS
        moved = self._errors[side][t]
        means = given.mean.flatten(1).double().cpu().numpy() / part
        scales = given.stddev.expand_as(given.mean).flatten(1).double().log().cpu().numpy()
        found: list[Coded] = []
        for lane, mean, scale in zip(lanes, means, scales * LOG_STEPS, strict=True):
            turn = lane.position * (self.chain.num_levels + 1) + t
            place = (2 * turn + (side == "p")) * 2 * self.values
            rounded = lane.agreement.round(mean, moved / part, place)
            step = lane.agreement.round(
                scale, LOG_STEPS * min(moved, TOLERANCE * _OUTPUT), place + self.values
            )
            centre, stddev = np.asarray(rounded * part, np.float64), scale_of(step)
            if t == 0:
                half = (self.levels - 1) / 2
                found.append(PixelNormal((centre + 1.0) * half, stddev * half, self.levels))
            else:
                size = self._step(lane, t)
                found.append(GridNormal(centre / size, stddev / size, side == "q"))
        return found


def _turn(lanes: Sequence[Lane], blocks: Sequence[Part], position: int) -> list[tuple[Lane, Part]]:
    """The stacks that have an example at this position, set to it."""
    return [
        (replace(lane, position=position), block)
        for lane, block in zip(lanes, blocks, strict=True)
        if position < len(block.index)
    ]


def _conditions(turn: Sequence[tuple[Lane, Part]], position: int) -> Condition | None:
    return turn[0][1].condition([block.index[position] for _, block in turn])
