r"""Bits-back coding of examples along a chain of latents.

.. math::
    x_1 \sim q(x_1|x_0) \text{ popped}, \quad x_0 \text{ pushed under } p(x_0|x_1), \quad
    x_2 \sim q(x_2|x_1) \text{ popped}, \quad x_1 \text{ pushed under } p(x_1|x_2), \dots

and at last :math:`x_T` under :math:`p(x_T)` (Townsend et al. 2019; Kingma, Abbeel & Ho 2019,
algorithm 1). What the stack grows by is :math:`\log_2 q(x_{1:T}|x_0) - \log_2 p(x_{0:T})`, whose
mean is the bound. Decoding does the opposite in the opposite order, and gives back the bits that
were popped, so that only the first examples pay for their draws. The examples of a stack are coded
in turns (`nelbo.coding.turns`), each level of all examples of a turn at once.

A latent of level t is an integer k, :math:`x_t = k \delta_t`, with a step :math:`\delta_t` that is
fine against the narrower of :math:`q(x_t|x_{t-1})` and :math:`p(x_t|x_{t+1})`. Since encoder and
decoder take the mass of the same bins, the only loss is that a latent is a bin's middle. The first
turns take a coarser grid, on which draws take fewer bits.

Several stacks are coded side by side, a turn of each at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import generator_for
from nelbo.coding.agreement import TOLERANCE, Agreement
from nelbo.coding.arithmetic import LOG_STEPS, Integers, scale_of
from nelbo.coding.distributions import Coded, DrawnNormal, GridNormal, PixelNormal
from nelbo.coding.stack import Stack
from nelbo.coding.turns import Turns

# A step of the grid is at most this share of the narrower standard deviation, and a mean is
# rounded to a part of such a step.
FINE, PARTS = 6, 4
# What a network gives is of this size, for the error of its output.
_OUTPUT = 8.0

# Called with completed=0 and the total as a pass over the tiles begins, and then with how many
# more of them are done.
Progress = Callable[..., None]


@dataclass
class Lane:
    """A stack with what encoder and decoder agreed on."""

    stack: Stack
    agreement: Agreement


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
class Row:
    """The examples of a turn that are on one stack.

    Attributes:
        lane: the stack.
        part: the examples of the stack.
        turn: which of these they are.
        where: their place among the examples of all stacks.
    """

    lane: Lane
    part: Part
    turn: range
    where: slice


@dataclass(frozen=True)
class ChainCode:
    """Codes examples along a chain.

    Attributes:
        chain: an `MHVAE` of float64.
        steps: log₂ of δ_t for t in 0..T; at 0 that of the mean of p(x_0|x_1), in data space.
        levels: the pixel levels of x_0.
        values: the largest number of values of any level.
        turns: how many examples of a stack are coded at a time.
        dtype: of the network's inputs; outputs of float64 are agreed on, others must be the same.
    """

    chain: Any
    steps: Sequence[int]
    levels: int
    values: int
    turns: Turns
    dtype: torch.dtype

    @cached_property
    def _errors(self) -> dict[str, list[float]]:
        """How far the means of another machine may be, by side and level."""
        tolerance = TOLERANCE if self.dtype == torch.float64 else 0.0
        return {
            side: (self.chain.sensitivity(side) * tolerance * _OUTPUT).tolist() for side in "qp"
        }

    @torch.no_grad()
    def push(
        self, lanes: Sequence[Lane], parts: Sequence[Part], progress: Progress | None = None
    ) -> None:
        """Push the examples of a part on each stack, the first turn first."""
        for number, rows in enumerate(self._rows(lanes, parts)):
            x_0 = torch.cat([row.part.x_0[row.turn.start : row.turn.stop] for row in rows])
            self._push(number, rows, x_0)
            if progress is not None:
                progress(len(x_0))

    @torch.no_grad()
    def pop(
        self, lanes: Sequence[Lane], parts: Sequence[Part], progress: Progress | None = None
    ) -> None:
        """Pop the examples of a part of each stack, the last turn first, into `x_0`."""
        for number, rows in reversed(list(enumerate(self._rows(lanes, parts)))):
            x_0 = self._pop(number, rows)
            for row in rows:
                row.part.x_0[row.turn.start : row.turn.stop] = x_0[row.where]
            if progress is not None:
                progress(len(x_0))

    def _rows(self, lanes: Sequence[Lane], parts: Sequence[Part]) -> list[list[Row]]:
        """The examples of each turn, stack by stack."""
        found = []
        for turn in self.turns.of(max(len(part.index) for part in parts)):
            rows, at = [], 0
            for lane, part in zip(lanes, parts, strict=True):
                size = min(turn.stop, len(part.index)) - turn.start
                if size > 0:
                    here = range(turn.start, turn.start + size)
                    rows.append(Row(lane, part, here, slice(at, at + size)))
                    at += size
            found.append(rows)
        return found

    def _push(self, number: int, rows: Sequence[Row], x_0: Tensor) -> None:
        """Push examples (n, ...) in data space, of `dtype`, those of a turn of each stack."""
        chain, condition = self.chain, _condition(rows)
        half = (self.levels - 1) / 2
        values = ((x_0.flatten(1).double() + 1.0) * half).round().long().cpu().numpy()
        x = self._states(number, values, 0, x_0)  # to the last bit what the decoder has
        for t in range(1, chain.num_levels + 1):
            q = chain.q_step(x, t)
            drawn = self._take(number, rows, q, t, "q")
            x_t = self._states(number, drawn, t, q.mean)
            self._put(number, rows, chain.p_below(x_t, t, condition), t - 1, "p", values)
            x, values = x_t, drawn
        self._put(number, rows, chain.p_prior(tuple(x.shape)), chain.num_levels, "p", values)

    def _pop(self, number: int, rows: Sequence[Row]) -> Tensor:
        """Pop the examples of a turn of each stack, in data space."""
        chain, condition = self.chain, _condition(rows)
        x = chain.start(rows[-1].where.stop, generator=generator_for(0))
        prior = chain.p_prior(tuple(x.shape))
        values = self._take(number, rows, prior, chain.num_levels, "p")
        x = self._states(number, values, chain.num_levels, x)
        for t in range(chain.num_levels, 0, -1):
            given = chain.p_below(x, t, condition)
            below = self._take(number, rows, given, t - 1, "p")
            x_below = self._states(number, below, t - 1, given.mean)
            self._put(number, rows, chain.q_step(x_below, t), t, "q", values)
            x, values = x_below, below
        return x

    def _take(
        self, number: int, rows: Sequence[Row], given: Distribution, t: int, side: str
    ) -> Integers:
        """The values of level t of each example, (n, V), popped; arguments as `_coded`."""
        codes = self._coded(number, rows, given, t, side)
        taken = [code.pop(row.lane.stack).reshape(len(row.turn), -1) for row, code in codes]
        return np.concatenate(taken)

    def _put(
        self,
        number: int,
        rows: Sequence[Row],
        given: Distribution,
        t: int,
        side: str,
        values: Integers,
    ) -> None:
        """Push the values of level t of each example, (n, V); other arguments as `_coded`."""
        for row, code in self._coded(number, rows, given, t, side):
            code.push(row.lane.stack, values[row.where].ravel())

    def _coded(
        self, number: int, rows: Sequence[Row], given: Distribution, t: int, side: str
    ) -> Iterator[tuple[Row, Coded]]:
        """What the values of level t of the examples of each stack are coded under.

        Args:
            number: that of the turn.
            rows: the examples.
            given: q(x_t|x_{t−1}) or p(x_t|x_{t+1}) of each example.
            t: the level.
            side: "q" or "p".
        """
        part = 2.0 ** self.steps[t] / PARTS
        moved = self._errors[side][t]
        means = given.mean.flatten(1).double().cpu().numpy() / part
        scales = given.stddev.expand_as(given.mean).flatten(1).double().log().cpu().numpy()
        scales = scales * LOG_STEPS
        for row in rows:
            here = len(row.turn) * self.values  # places, of means and of scales
            place = 4 * self.values * (self.chain.num_levels + 1) * row.turn.start
            place += 2 * here * (2 * t + (side == "p"))
            rounded = row.lane.agreement.round(means[row.where].ravel(), moved / part, place)
            step = row.lane.agreement.round(
                scales[row.where].ravel(), LOG_STEPS * min(moved, TOLERANCE * _OUTPUT), place + here
            )
            centre = np.asarray(rounded * part, np.float64)
            stddev = scale_of(step)
            if t == 0:
                half = (self.levels - 1) / 2
                yield row, PixelNormal((centre + 1.0) * half, stddev * half, self.levels)
            else:
                size = self._step(number, t)
                mean, stddev = centre / size, stddev / size
                key = (self.chain.num_levels + 1) * number + t
                drawn = side == "q"
                yield row, DrawnNormal(mean, stddev, key) if drawn else GridNormal(mean, stddev)

    def _step(self, number: int, t: int) -> float:
        """δ_t in a turn; the first ones take a coarser one."""
        return 2.0 ** (self.steps[t] + max(0, self.turns.coarser - number))

    def _states(self, number: int, values: Integers, t: int, like: Tensor) -> Tensor:
        """The states that integers stand for, of the shape of `like`."""
        if t == 0:
            states = np.asarray(2.0 * values / (self.levels - 1) - 1.0, np.float64)
        else:
            states = np.asarray(values * self._step(number, t), np.float64)
        return torch.from_numpy(states).view(like.shape).to(like.device, self.dtype)


def _condition(rows: Sequence[Row]) -> Condition | None:
    """What the model is conditioned on for the examples of a turn."""
    return rows[0].part.condition([row.part.index[i] for row in rows for i in row.turn])
