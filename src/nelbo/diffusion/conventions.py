r"""The conventions that a network may have been trained by, beside those that its chain assumes.

A convention is the state that a network receives, a multiple of the chain's :math:`x_t`; the time
that it is called with; and what its answer stands for. A network that is called by another
convention than its own often runs, and draws something. Each part has a name that completes a
message, "" where it is that of the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import torch
from torch import Tensor

from nelbo.diffusion.prediction import PARAMETERIZATIONS, Epsilon, Parameterization, RawDenoiser
from nelbo.diffusion.schedule import NoiseSchedule

# σ_d that EDM's raw networks have unless another is stated.
_SIGMA_DATA = 0.5
_RAW = RawDenoiser(_SIGMA_DATA)

# The scale of a network's state, of a and s of the chain's a x_0 + s ε.
_STATES: dict[str, Callable[[Tensor, Tensor], Tensor | float] | None] = {
    "": None,
    "it expects the variance-preserving state √ᾱ x_0 + √(1 − ᾱ) ε, x / √(1 + σ²) of x_0 + σ ε": (
        lambda a, s: 1.0
    ),
    "it expects the variance-exploding state x_0 + σ ε": lambda a, s: 1 / a,
    "it expects the state of flow matching (1 − s) x_0 + s ε": lambda a, s: 1 / (a + s),
    "it expects EDM's scaled state (x_0 + σ ε) / √(σ² + 0.25) (use nelbo.preconditioned)": (
        lambda a, s: 1 / (s.square() + (_SIGMA_DATA * a).square()).sqrt()
    ),
}

# Of the present time and of σ, (B,).
_TIMES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "": lambda time, sigma: time,
    "it expects a time 1000 times as large (0..1000, not 0..1)": lambda time, sigma: 1000 * time,
    "it expects a time 1000 times smaller (0..1, not 0..1000)": lambda time, sigma: time / 1000,
    "its time runs the other way (1 − time)": lambda time, sigma: 1 - time,
    "its time runs the other way, in 0..1000 (1000 − 1000 time)": (
        lambda time, sigma: 1000 - 1000 * time
    ),
    "it expects log(σ)/4 as its time, as EDM's raw network (use nelbo.preconditioned)": (
        lambda time, sigma: sigma.log() / 4
    ),
    "it expects σ as its time": lambda time, sigma: sigma,
    "it expects log(σ) as its time": lambda time, sigma: sigma.log(),
    "it expects the time of flow matching, s = σ / (1 + σ)": lambda time, sigma: (
        sigma / (1 + sigma)
    ),
    "it expects the time of flow matching in 0..1000, 1000 σ / (1 + σ)": (
        lambda time, sigma: 1000 * sigma / (1 + sigma)
    ),
    "it expects a time from noise to data, 1 / (1 + σ)": lambda time, sigma: 1 / (1 + sigma),
    "it expects a whole time in 0..999 (pass (1000 * s).long())": (
        lambda time, sigma: (1000 * sigma / (1 + sigma)).long().clamp(max=999)
    ),
    "it expects the level in 0..999 of NoiseSchedule.linear(1000) as its time": (
        lambda time, sigma: _level(NoiseSchedule.linear, sigma)
    ),
    "it expects the level in 0..999 of NoiseSchedule.scaled_linear(1000) as its time": (
        lambda time, sigma: _level(NoiseSchedule.scaled_linear, sigma)
    ),
    "it expects the level in 0..999 of NoiseSchedule.cosine(1000) as its time": (
        lambda time, sigma: _level(NoiseSchedule.cosine, sigma)
    ),
}

# The ranges that data and network may differ by.
RANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "x_0 lies in [0, 1] and the network expects data in [-1, 1]: pass 2 * x_0 - 1": (
        lambda x: 2 * x - 1
    ),
    "the network expects data in [0, 1] and x_0 lies in [-1, 1]: pass (x_0 + 1) / 2": (
        lambda x: (x + 1) / 2
    ),
    "x_0 lies in 0..255 and the network expects data in [-1, 1]: pass x_0 / 127.5 - 1": (
        lambda x: x / 127.5 - 1
    ),
}


@dataclass(frozen=True)
class _Answer:
    """How an answer is read: as a quantity, once it is multiplied.

    Attributes:
        name: what it is.
        kind: the quantity.
        sign: what the answer is multiplied by.
        is_score: whether it is multiplied by the noise of the network's state as well, and so a
            score where the quantity is the noise.
    """

    name: str
    kind: Parameterization
    sign: float = 1.0
    is_score: bool = False


class Convention(Parameterization):
    """Another convention for the network of a chain.

    Args:
        own: that of the chain.
        state: the name of the state that the network receives.
        time: the name of the time that it is called with.
        answer: how its answer is read.
    """

    name = "convention"

    def __init__(self, own: Parameterization, state: str, time: str, answer: _Answer) -> None:
        self._own, self._state, self._time, self._answer = own, state, time, answer

    def __str__(self) -> str:
        return " and ".join(self.parts)

    @property
    def parts(self) -> list[str]:
        """The names of what differs from the chain's."""
        return [name for name in (self._answer.name, self._state, self._time) if name]

    @property
    def reads(self) -> object:
        """What decides how an answer is read; equal for two that are read alike."""
        return self._answer, self._state if self._answer.is_score else ""

    def network_input(
        self, x_t: Tensor, time: Tensor, a: Tensor, s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The state and time of this convention."""
        state, own_time = self._own.network_input(x_t, time, a, s)
        if (scale := _STATES[self._state]) is not None:
            state = (scale(a, s) * x_t).to(x_t.dtype)
        sigma = (s / a).flatten().expand(len(x_t)).to(x_t.device)
        return state, _TIMES[self._time](own_time, sigma)

    def x_0(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The data that an output stands for."""
        return self._answer.kind.x_0(self._factor(x_t, a, s) * output, x_t, a, s)

    def epsilon(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The noise that an output stands for."""
        return self._answer.kind.epsilon(self._factor(x_t, a, s) * output, x_t, a, s)

    def target(self, x_0: Tensor, epsilon: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """What the output stands for, once it is multiplied."""
        return self._answer.kind.target(x_0, epsilon, a, s)

    def data_error(self, log_snr: Tensor) -> Tensor:
        """As that of the quantity."""
        return self._answer.kind.data_error(log_snr)

    def noise_error(self, log_snr: Tensor) -> Tensor:
        """As that of the quantity."""
        return self._answer.kind.noise_error(log_snr)

    def _factor(self, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor | float:
        if not self._answer.is_score:
            return self._answer.sign
        if (of := _STATES[self._state]) is not None:
            return self._answer.sign * s * of(a, s)
        # A state is a multiple of the chain's.
        scale, _ = self._own.network_input(torch.ones_like(x_t), s.new_zeros(len(x_t)), a, s)
        return self._answer.sign * s * scale


def conventions(own: Parameterization) -> Iterator[list[Convention]]:
    """Every convention, that of the chain first; those of a list call the network alike."""
    answers = list(_answers(own))
    for state, time in product(_STATES, _TIMES):
        yield [Convention(own, state, time, answer) for answer in answers]


def other_states(own: Parameterization) -> Iterator[list[Convention]]:
    """Those that differ from the chain's by the state alone."""
    for state in _STATES:
        if state:
            yield [Convention(own, state, "", _Answer("", own))]


def _answers(own: Parameterization) -> Iterator[_Answer]:
    yield _Answer("", own)
    yield _Answer("its answer has the other sign", own, -1.0)
    for name, kind in PARAMETERIZATIONS.items():
        if name in (own.name, "denoiser"):  # which is read as a sample
            continue
        named = f"it answers what prediction={name!r} reads"
        if (own.name, name) == ("own_score", "epsilon"):
            named = "it answers the noise, not a score (use nelbo.from_epsilon)"
        yield _Answer(named, kind)
        if name != "sample":
            yield _Answer(f"{named}, with the other sign", kind, -1.0)
    yield _Answer("it answers a score (use nelbo.from_score)", Epsilon(), -1.0, is_score=True)
    yield _Answer("it answers what EDM's raw network does (use nelbo.preconditioned)", _RAW)


@cache
def _log_sigmas(schedule: Callable[[int], NoiseSchedule]) -> Tensor:
    return schedule(1000).sigmas[1:].log()


def _level(schedule: Callable[[int], NoiseSchedule], sigma: Tensor) -> Tensor:
    """The time of the nearest level, (B,) int64."""
    levels = _log_sigmas(schedule).to(sigma.device)
    return (sigma.double().log()[:, None] - levels).abs().argmin(dim=1)
