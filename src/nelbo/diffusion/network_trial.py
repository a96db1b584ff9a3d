r"""How well a network predicts x_0 by one convention or another, on the same examples and noise.

Errors are multiples of that of the best linear guess that knows only mean and variance. Some
mistakes cost less than that, such as a state of another scale. They are found by comparison:
:math:`E[x_0|x_t]` is the best prediction, so that no other convention improves on the right one at
any level, and the right one improves on a wrong one and is nowhere worse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.diffusion.conventions import RANGES, Convention, conventions
from nelbo.diffusion.model import Diffusion
from nelbo.diffusion.prediction import Prediction

_LEVELS = 8
# How far above the linear guess an error may lie, and how large a part of the power of its output
# a network may be wrong by beside: one that is trained, one of few steps, and any of some use.
_TRAINED, _BARELY_TRAINED, _UNTRAINED = (1.25, 0.02), (1.25, 0.5), (4.0, 0.5)
# Another convention improves on the chain's by at least this part of the error at some level, by as
# many standard errors over the examples; and is worse at a level by this part and as many.
_BETTER_PART, _BETTER_ERRORS = 0.02, 3.0
_WORSE_PART, _WORSE_ERRORS = 0.01, 2.5
# A convention explains nothing whose reading of zero, which that of v is a fair guess, is as good.
_INFORMED = 0.9
# What a network may raise that is called with a state or time it does not expect.
REFUSALS = (NelboError, RuntimeError, IndexError, TypeError, ValueError)


@dataclass(frozen=True)
class _Reading:
    """How well x_0 is predicted at a level, as multiples of the error of the linear guess.

    Attributes:
        error: squared error of each example, (B,).
        mean: over the examples.
        output: that of an output of zero.
    """

    error: Tensor
    mean: float
    output: float

    @property
    def excess(self) -> float:
        """The mean as a multiple of what is allowed of a trained network."""
        return self.over(_TRAINED)

    def over(self, allowed: tuple[float, float]) -> float:
        """The mean as a multiple of what is allowed: of the guess, and of the output."""
        return self.mean / (allowed[0] + allowed[1] * self.output)


@dataclass(frozen=True)
class _Fit:
    """A convention that fits, and its error at every level, (L, B)."""

    parts: list[str]
    errors: Tensor


class Trial:
    """One set of examples and noise, on which conventions are compared."""

    def __init__(
        self, model: Diffusion, x_0: Tensor, noise: Tensor, condition: Condition | None
    ) -> None:
        self._model, self._x_0, self._noise, self._condition = model, x_0, noise, condition
        self._levels = _levels(model)
        self._own: dict[int, _Reading] = {}
        self._allowed = _TRAINED
        self._assumed = next(conventions(model.parameterization))[:1]
        self._lines: dict[tuple[object, int], tuple[float, float]] = {}

    def read_own(self) -> tuple[int, float]:
        """The level at which the chain's own convention is worst, and its excess there."""
        read = {t: self._read(self._model, self._assumed, self._x_0, t)[0] for t in self._levels}
        # Where it is worst, another convention shows first.
        self._levels.sort(key=lambda t: read[t].excess, reverse=True)
        self._own = read
        # What explains a failure must pass where this fails.
        for allowed in (_TRAINED, _BARELY_TRAINED):
            if any(reading.over(allowed) > 1 for reading in read.values()):
                self._allowed = allowed
        return self._levels[0], read[self._levels[0]].excess

    def is_useless(self) -> bool:
        """Whether it is worse at some level than any network of some use."""
        return any(reading.over(_UNTRAINED) > 1 for reading in self._own.values())

    def likely(self, groups: Iterable[list[Convention]]) -> str:
        """What explains the errors with the fewest changes; "" where nothing does."""
        fits = [*self._ranges(), *(fit for group in groups for fit in self._fitting(group))]
        if not fits:
            return ""
        best = min(fits, key=lambda fit: float(fit.errors.mean()))
        alike = [fit for fit in fits if not _is_less(best.errors.mean(0), fit.errors.mean(0))]
        simplest = min(alike, key=lambda fit: (len(fit.parts), float(fit.errors.mean())))
        return " and ".join(simplest.parts)

    def _fitting(self, group: list[Convention]) -> Iterator[_Fit]:
        """Those of one input of the network that fit at every level."""
        asked = self._model.replace(prediction=group[0])
        read: dict[Convention, list[_Reading]] = {convention: [] for convention in group}
        for t in self._levels:
            try:
                found = self._read(asked, list(read), self._x_0, t)
            except REFUSALS:
                return
            for convention, reading in zip(list(read), found, strict=True):
                read[convention].append(reading)
                if self._is_worse(reading, t):
                    del read[convention]
            if not read:
                return
        for convention, readings in read.items():
            if self._improves(readings):
                yield _Fit(convention.parts, torch.stack([each.error for each in readings]))

    def _ranges(self) -> Iterator[_Fit]:
        """Ranges of data that fit at every level."""
        for name, change in RANGES.items():
            x_0 = change(self._x_0)
            shift = (self._x_0.var() / x_0.var()).log()
            readings = []
            for t in self._levels:
                # Where there is as much noise beside the data.
                wanted = self._model.schedule.log_snr[t] + shift.double().cpu()
                at = int((self._model.schedule.log_snr[1:] - wanted).abs().argmin()) + 1
                try:
                    reading = self._read(self._model, self._assumed, x_0, at)[0]
                except REFUSALS:
                    break
                if self._is_worse(reading, t):
                    break
                readings.append(reading)
            else:
                if self._improves(readings):
                    yield _Fit([name], torch.stack([each.error for each in readings]))

    def _is_worse(self, reading: _Reading, t: int) -> bool:
        if reading.over(self._allowed) > 1:
            return True
        own = self._own.get(t)
        return (
            own is not None
            and own.excess <= 1
            and (
                reading.mean > (1 + _WORSE_PART) * own.mean
                and _is_less(own.error, reading.error, _WORSE_ERRORS)
            )
        )

    def _improves(self, readings: list[_Reading]) -> bool:
        if not any(reading.mean < _INFORMED * reading.output for reading in readings):
            return False
        own = [self._own[t] for t in self._levels if self._own]
        if not own or any(reading.over(self._allowed) > 1 for reading in own):
            return True
        better = any(
            other.mean < (1 - _BETTER_PART) * each.mean
            for each, other in zip(own, readings, strict=True)
        )
        less = torch.stack([each.error for each in readings]).mean(0)
        more = torch.stack([each.error for each in own]).mean(0)
        return better and _is_less(less, more, _BETTER_ERRORS)

    def _read(
        self, asked: Diffusion, conventions: Iterable[Convention], x_0: Tensor, t: int
    ) -> list[_Reading]:
        """How well each reads what the network answers at a level."""
        variance = float(x_0.var())
        guess = variance / (1 + float(asked.schedule.snr[t]) * variance)
        read = asked.predict(asked.diffuse(x_0, self._noise, t), t, self._condition)
        x, output, data = (each.double().flatten(1) for each in (read.x_t, read.output, x_0))
        # x̂_0 is linear in state and output, so that their products hold the error of every kind.
        pairs = ((x, x), (x, data), (data, data), (output, output), (x, output), (output, data))
        products = torch.stack([(one * other).mean(1) for one, other in pairs]) / guess
        lines = [self._line(convention, t, read) for convention in conventions]
        weights = [[p * p, -2 * p, 1, q * q, 2 * p * q, -2 * q] for p, q in lines]
        errors = products.new_tensor(weights) @ products
        xx, xd, dd, *_ = products.mean(1).tolist()
        zeros = [p * p * xx - 2 * p * xd + dd for p, _ in lines]
        means = errors.mean(1).tolist()
        return [_Reading(*each) for each in zip(errors, means, zeros, strict=True)]

    def _line(self, convention: Convention, t: int, read: Prediction) -> tuple[float, float]:
        """What x̂_0 has of the state and of the output."""
        if (found := self._lines.get((convention.reads, t))) is None:
            a, s = read.signal_scale.double(), read.noise_scale.double()
            one = torch.ones(1, 1, 1, 1, dtype=torch.float64, device=read.x_t.device)
            of_x, of_output = (
                convention.x_0(u * one, v * one, a, s).item() for u, v in ((0, 1), (1, 0))
            )
            found = self._lines[convention.reads, t] = of_x, of_output
        return found


def _is_less(errors: Tensor, others: Tensor, standard_errors: float = 3.0) -> bool:
    """Whether the mean over examples is less by at least this number of standard errors."""
    gain = others - errors
    return float(gain.mean()) > standard_errors * float(gain.std() / len(gain) ** 0.5)


def _levels(model: Diffusion) -> list[int]:
    """Levels that are even in log SNR, from the first to the last with signal."""
    log_snr = model.schedule.log_snr[1:]
    log_snr = log_snr[log_snr.isfinite()]
    places = torch.linspace(float(log_snr[0]), float(log_snr[-1]), _LEVELS, dtype=torch.float64)
    return sorted({int((log_snr - place).abs().argmin()) + 1 for place in places})
