r"""The filter and the smoother of a hidden Markov model, all sequences at once.

With :math:`\pi_s = p(s_1)`, :math:`A_{rs} = p(s_t = s | s_{t-1} = r)` and the likelihoods
:math:`b_{ts} = p(x_t | s_t = s)`, going forward

.. math::
    p(s_t | x_{<t}) &= A^\top p(s_{t-1} | x_{<t}) \\
    p(s_t | x_{\le t}) &= b_t \circ p(s_t | x_{<t}) / c_t, \qquad c_t = p(x_t | x_{<t})

so that every step is scaled to a distribution and :math:`\log p(x) = \sum_t \log c_t`. Going back

.. math::
    p(s_{t-1} = r, s_t = s | x) = p(s_{t-1} = r | x_{<t})\, A_{rs}\,
        \frac{p(s_t = s | x)}{p(s_t = s | x_{<t})}.

This is the algorithm of `nelbo.families.kalman` with sums in place of integrals.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Filtered(NamedTuple):
    """What each state's probability is given the past.

    Attributes:
        predicted: p(s_t | x before t), (B, T, S).
        filtered: p(s_t | x up to t), (B, T, S).
        log_likelihood: log p(x), nats, (B,).
    """

    predicted: Float[Tensor, "batch length states"]
    filtered: Float[Tensor, "batch length states"]
    log_likelihood: Float[Tensor, " batch"]


class Smoothed(NamedTuple):
    """What each state's probability is given the whole sequence.

    Attributes:
        states: p(s_t | x), (B, T, S).
        transitions: the expected number of each transition over all sequences, (S, S).
        log_likelihood: log p(x), nats, (B,).
    """

    states: Float[Tensor, "batch length states"]
    transitions: Float[Tensor, "states states"]
    log_likelihood: Float[Tensor, " batch"]


def hmm_filter(
    initial: Float[Tensor, " states"],
    transition: Float[Tensor, "states states"],
    log_b: Float[Tensor, "batch length states"],
) -> Filtered:
    """Forward.

    Args:
        initial: π.
        transition: A, rows sum to one.
        log_b: log p(x_t | s_t), nats.
    """
    predicted, filtered = [], []
    likelihood = torch.zeros_like(log_b[:, 0, 0])
    p = initial.expand_as(log_b[:, 0])
    for t in range(log_b.shape[1]):
        predicted.append(p)
        # In logarithms until they are normalised: b alone may underflow where p decides.
        joint = p.log() + log_b[:, t]
        # What cannot be stays so: after it there is no distribution of states to go on from.
        cannot_be = likelihood == -math.inf
        likelihood = torch.where(cannot_be, likelihood, likelihood + joint.logsumexp(1))
        filtered.append(joint.softmax(1))
        p = filtered[-1] @ transition
    return Filtered(torch.stack(predicted, 1), torch.stack(filtered, 1), likelihood)


def hmm_smoother(
    initial: Float[Tensor, " states"],
    transition: Float[Tensor, "states states"],
    log_b: Float[Tensor, "batch length states"],
) -> Smoothed:
    """Forward and back; arguments as `hmm_filter`."""
    predicted, filtered, likelihood = hmm_filter(initial, transition, log_b)
    states = [filtered[:, -1]]
    transitions = torch.zeros_like(transition)
    for t in range(log_b.shape[1] - 1, 0, -1):
        possible = predicted[:, t] > 0
        ratio = torch.where(possible, states[-1] / predicted[:, t], 0.0)
        transitions += filtered[:, t - 1].T @ ratio
        states.append(filtered[:, t - 1] * (ratio @ transition.T))
    return Smoothed(torch.stack(states[::-1], 1), transitions * transition, likelihood)
