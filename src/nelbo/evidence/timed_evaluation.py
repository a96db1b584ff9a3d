"""Read the bound of as many images, at as many levels, as there is time for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.bound import Bound
from nelbo.chain.distributions import generator_for
from nelbo.chain.estimators import EveryLevel, Importance, proposal_from
from nelbo.chain.evidence import Evidence, joined
from nelbo.chain.model import Model
from nelbo.data import ImageData
from nelbo.evidence.allocation import DrawSpread
from nelbo.evidence.evaluation import evaluate
from nelbo.evidence.inputs import check_fits
from nelbo.evidence.pilot import PILOT_IMAGES, estimator_of, pilot
from nelbo.evidence.reading_levels import profiled_square

# What an image is evaluated at first: draws of x_1, and levels.
_FIRST, _LEVELS = 2, 4
# Images at a time: few at first, to learn soon what they cost.
_BATCHES = (2, 4, 8, 16, 32)
_LARGEST_BATCH = 64
# The share of the time that is spent on finding the levels that matter.
_PILOT_SHARE = 0.2
# A Monte Carlo error of this share of the whole error is no part of it to speak of: 0.5%.
_NEGLIGIBLE = 0.1
# Draws of levels of an image at most, or those of the whole chain where it is longer.
_MOST_LEVELS = 128
# A round that takes this much longer than expected is given up.
_PATIENCE = 1.5


class TimedEvaluation:
    r"""The bound of images, refined for as long as there is time.

    The images come in an order drawn at random, so that those that have been evaluated are a sample
    of all. Each is first evaluated at a few levels, drawn where a pilot finds them to matter
    (`Importance`). Once all have been, rounds over all of them add levels, up to where the Monte
    Carlo error is a tenth of the whole error, or each image has had as many draws as the chain has
    levels, the price of reading every one, and at least 128. With a spread :math:`\sigma` over
    images and a Monte Carlo variance :math:`v / K` of each at K levels, n images have the variance
    :math:`(\sigma^2 + v/K)/n` in n K calls: more images are worth more than more levels, as long
    as there are any.

    What decides when it stops is the time, not the values, so that the estimate is unbiased. A
    model without a chain is evaluated in one call an image, and settled once all have been.

    Args:
        model: the model, evaluated where its weights are.
        data: the images.
        most: largest number of them.
        levels: levels an image, or "all"; by default as many as there is time for. Levels that are
            asked for are evaluated of all `most` images, whatever the time.
        complete: evaluate all `most` images at a few levels at least, whatever the time.
        seed: of the order and of all noise.
        clock: the clock, in seconds.

    Attributes:
        calls: network evaluations so far, with those of the pilot.
        call_seconds: of a network evaluation of one image of a batch, as measured last.

    Raises:
        NelboError: images that do not fit the model.
    """

    def __init__(
        self,
        model: Model,
        data: ImageData,
        *,
        most: int,
        levels: int | Literal["all"] | None = None,
        complete: bool = False,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_fits(model, data)
        self.model = model
        self.calls = 0
        self._seed, self._clock = seed, clock
        self._timed = levels is None
        self._complete = complete or not self._timed
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(data), generator=generator)[:most]
        self._all = data.take(order)
        self._num_levels = 0 if model.chain is None else model.chain.num_levels
        self._asked = self._num_levels if levels == "all" else levels
        self._rounds = 0
        self._parts: list[Evidence] = []
        self._bound: Evidence | None = None
        self._proposal: Tensor | None = None
        self.call_seconds = math.nan

    @property
    def bound(self) -> Evidence:
        """Of the images evaluated so far, in the order of `data`.

        Raises:
            NelboError: there is none yet.
        """
        if self._parts:
            parts = self._parts if self._bound is None else [self._bound, *self._parts]
            self._bound, self._parts = joined(parts), []
        if self._bound is None:
            raise NelboError("nothing has been evaluated yet")
        return self._bound

    @property
    def data(self) -> ImageData:
        """The images evaluated so far."""
        return self._all.take(slice(self.count))

    @property
    def count(self) -> int:
        """How many images have been evaluated."""
        return sum(map(len, self._parts)) + (0 if self._bound is None else len(self._bound))

    @property
    def most(self) -> int:
        """How many images there are to evaluate."""
        return len(self._all)

    @property
    def proposal(self) -> Tensor:
        """Where levels are drawn, the probability of each of 2..T, (T−1,); empty without a chain.

        Raises:
            NelboError: nothing has been evaluated yet.
        """
        if self._proposal is None:
            raise NelboError("nothing has been evaluated yet")
        return self._proposal

    @property
    def expected_calls(self) -> int:
        """Network evaluations that every image takes, without rounds that there is time for."""
        return self.most * self._calls_per_image()

    @property
    def is_settled(self) -> bool:
        """Whether more time would change next to nothing."""
        if self.count < self.most or not self._timed or self.model.chain is None:
            return self.count == self.most
        bits = self.bound.mean().bits_per_dim
        if not math.isfinite(bits.standard_error):  # one image, or a bound that is not finite
            return True
        if self._chain_bound.level_calls[0] >= self._most_levels:
            return True
        return bits.monte_carlo_error <= _NEGLIGIBLE * bits.standard_error

    @property
    def _most_levels(self) -> int:
        return max(_MOST_LEVELS, self._num_levels)

    @property
    def _chain_bound(self) -> Bound:
        """`bound`, of a model with a chain."""
        return cast(Bound, self.bound)

    def refine(self, seconds: float) -> Iterator[TimedEvaluation]:
        """Evaluate more, for about `seconds`; yields itself after each batch.

        The first time two images are evaluated at least.
        """
        end = self._clock() + seconds
        if self._proposal is None:
            self._begin(seconds)
        while self.count < self.most:
            size = min(self._next_batch(), self.most - self.count)
            if not self._complete and self.count:
                affordable = (end - self._clock()) / (self._calls_per_image() * self.call_seconds)
                size = min(size, int(affordable))
                if size < 1:
                    return
            self._take(size)
            yield self
        while self._timed and not self.is_settled:
            if not self._round(end):
                return
            yield self

    def _begin(self, seconds: float) -> None:
        """Find the levels that matter."""
        T = self._num_levels
        self._proposal = torch.full((max(T - 1, 0),), 1.0 / max(T - 1, 1), dtype=torch.float64)
        if isinstance(self._estimator(_FIRST, _LEVELS), EveryLevel):
            return
        known = profiled_square(self.model.chain)
        if known is not None:
            self._proposal = proposal_from(known)
            return
        images = PILOT_IMAGES
        if not self._complete:
            # One image first: a network may be slow.
            start = self._clock()
            square, calls = pilot(self.model, self._all, self._generator(0), images=1)
            self.calls += calls
            took = self._clock() - start
            images = min(PILOT_IMAGES, int(_PILOT_SHARE * seconds / max(took, 1e-9)))
        if images > 1:
            square, calls = pilot(self.model, self._all, self._generator(1), images=images)
            self.calls += calls
        self._proposal = proposal_from(square)

    def _generator(self, stream: int) -> torch.Generator:
        return generator_for(self._seed, 3, stream)

    def _estimator(self, first: int, levels: int) -> EveryLevel | Importance:
        assert self._proposal is not None
        levels = levels if self._asked is None else self._asked
        return estimator_of(first, levels, self._proposal)

    def _calls_per_image(self) -> int:
        """What an image takes at first."""
        if self.model.chain is None:
            return 1
        asked = _LEVELS if self._asked is None else self._asked
        return _FIRST + min(self._num_levels - 1, asked)

    def _next_batch(self) -> int:
        taken = self.count
        for size in _BATCHES:
            if taken < size:
                return size
            taken -= size
        return _LARGEST_BATCH

    def _take(self, size: int) -> None:
        """Evaluate the next images at a few levels."""
        start, index = self._clock(), self.count
        batch = self._all.take(slice(index, index + size))
        self._parts += evaluate(
            self.model,
            batch,
            levels=self._estimator(_FIRST, _LEVELS),
            batch_size=_LARGEST_BATCH,
            generator=self._generator(2 + index),
        )
        self._learn(start, int(self._parts[-1].calls.sum()))

    def _learn(self, start: float, calls: int) -> None:
        self.calls += calls
        if calls:
            self.call_seconds = max((self._clock() - start) / calls, 1e-9)

    def _round(self, end: float) -> bool:
        """Add levels to all images; False where there is no time for it."""
        bound = self._chain_bound
        have = int(bound.reconstruction_calls[0]) + int(bound.level_calls[0])
        left = (end - self._clock()) / (len(bound) * self.call_seconds)
        calls = min(2 * have, int(left))
        first, levels = _shared_out(bound, calls)
        levels = min(levels, self._most_levels)
        if levels < 2:
            return False
        self._rounds += 1
        start = self._clock()
        given_up = start + _PATIENCE * calls * len(bound) * self.call_seconds
        new: list[Any] = []
        for batch in evaluate(
            self.model,
            self._all,
            levels=self._estimator(first, levels),
            batch_size=_LARGEST_BATCH,
            generator=generator_for(self._seed, 4, self._rounds),
        ):
            new.append(batch)
            if self._clock() > given_up and sum(map(len, new)) < len(bound):
                return False
        joined = Bound.cat(new)
        self._learn(start, int(joined.calls.sum()))
        self._bound = Bound.merge([bound, joined])
        return True


def _shared_out(bound: Bound, calls: int) -> tuple[int, int]:
    """Divide further calls an image between draws of x_1 and of levels, to the greatest effect.

    Fewer than two draws do not determine their variance: then none is made.
    """
    have_first, have_levels = int(bound.reconstruction_calls[0]), int(bound.level_calls[0])
    whole_first = DrawSpread.of([bound]).share * (have_first + have_levels + calls)
    more = min(calls, max(0, round(whole_first) - have_first))
    more = more if more >= 2 else 0
    return more, calls - more
