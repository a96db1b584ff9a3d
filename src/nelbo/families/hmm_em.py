"""EM of a hidden Markov model: pure functions of its parameters and all sequences."""

from __future__ import annotations

import operator
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.families.emissions import Emission
from nelbo.families.hmm_inference import hmm_filter, hmm_smoother

# Values of one block of log-likelihoods and states, so that memory is bounded.
_VALUES = 2**22


class Chain(NamedTuple):
    """The parameters of a hidden Markov model, float64.

    Attributes:
        initial: π, (S,).
        transition: A, (S, S), rows sum to one.
        emission: those of the `Emission`.
    """

    initial: Float[Tensor, " states"]
    transition: Float[Tensor, "states states"]
    emission: Tensor


class Expected(NamedTuple):
    """What the E-step hands to the M-step; of several batches the sums.

    Attributes:
        initial: how many sequences start in each state.
        transitions: how often each transition is made.
        moments: those of the `Emission`.
        log_likelihood: log p of all sequences, nats.
        sequences: how many there are.
    """

    initial: Tensor
    transitions: Tensor
    moments: Tensor
    log_likelihood: Tensor
    sequences: int

    def plus(self, other: Expected) -> Expected:
        """Those of both batches."""
        return Expected(*map(operator.add, self, other))


def expect(p: Chain, emission: Emission, x: Float[Tensor, "batch length values"]) -> Expected:
    """The E-step, a bounded number of sequences at a time."""

    def of(part: Tensor) -> Expected:
        found = hmm_smoother(p.initial, p.transition, emission.log_density(p.emission, part))
        return Expected(
            found.states[:, 0].sum(0),
            found.transitions,
            emission.moments(part, found.states),
            found.log_likelihood.sum(),
            len(part),
        )

    return reduce(Expected.plus, map(of, _parts(p, x)))


def maximise(expected: Expected, emission: Emission, pseudocount: float = 0.0) -> Chain:
    """The M-step: with no pseudocount EM never lowers the likelihood."""
    states = len(expected.initial)
    even = max(pseudocount, 1e-12) / states
    initial, transitions = expected.initial + even, expected.transitions + even
    return Chain(
        initial / initial.sum(),
        transitions / transitions.sum(1, keepdim=True),
        emission.maximise(expected.moments, pseudocount),
    )


def log_likelihood(
    p: Chain, emission: Emission, x: Float[Tensor, "batch length values"]
) -> Float[Tensor, " batch"]:
    """log p(x) of each sequence, nats."""
    each = (emission.log_likelihood(p.emission, part) for part in _parts(p, x))
    return torch.cat([hmm_filter(p.initial, p.transition, b).log_likelihood for b in each])


def _parts(p: Chain, x: Tensor) -> tuple[Tensor, ...]:
    """The sequences, as many at a time as memory holds."""
    return x.split(max(1, _VALUES // (x.shape[1] * len(p.initial) * x.shape[2])))
