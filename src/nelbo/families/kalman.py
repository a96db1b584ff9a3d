r"""The filter, the smoother and EM of a linear dynamical system, all sequences at once.

.. math::
    z_1 &\sim N(0, P_1) \\
    z_t &= A z_{t-1} + N(0, Q) \\
    x_t &= C z_t + d_t + N(0, \mathrm{diag}(r_t))

**Filter** (Kalman 1960), from :math:`m_1^- = 0, P_1^- = P_1`:

.. math::
    S_t &= C P_t^- C^\top + \mathrm{diag}(r_t), \qquad K_t = P_t^- C^\top S_t^{-1} \\
    m_t &= m_t^- + K_t (x_t - d_t - C m_t^-), \qquad
    P_t = (I - K_t C) P_t^- (I - K_t C)^\top + K_t \mathrm{diag}(r_t) K_t^\top \\
    m_{t+1}^- &= A m_t, \qquad P_{t+1}^- = A P_t A^\top + Q

and :math:`\log p(x) = \sum_t \log N(x_t;\, C m_t^- + d_t,\, S_t)`.

**Smoother** (Rauch, Tung & Striebel 1965), from the end:

.. math::
    J_t = P_t A^\top (P_{t+1}^-)^{-1}, \quad
    \hat m_t = m_t + J_t (\hat m_{t+1} - m_{t+1}^-), \quad
    \hat P_t = P_t + J_t (\hat P_{t+1} - P_{t+1}^-) J_t^\top

Sequences have one length and the same values missing, so every covariance is the same for all of
them: it is computed once, and a sequence costs matrix-vector products alone.

This is the algorithm of `nelbo.families.hmm_inference` with integrals in place of sums.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class System(NamedTuple):
    """The parameters, float64.

    Attributes:
        initial: P_1, (q, q).
        transition: A, (q, q).
        process: Q, (q, q).
        observation: C, (M, q).
        offset: d, (T, M).
        noise: r, (M,), or of each step, (T, M); inf where a value is missing, 0 where it is the
            state itself.
    """

    initial: Float[Tensor, "latents latents"]
    transition: Float[Tensor, "latents latents"]
    process: Float[Tensor, "latents latents"]
    observation: Float[Tensor, "values latents"]
    offset: Float[Tensor, "length values"]
    noise: Float[Tensor, "*length values"]

    def joint(self) -> tuple[Tensor, Tensor]:
        """All of x as one linear map of T · q independent standard normals: W and μ, by rows."""
        q, length = len(self.transition), len(self.offset)
        states = self.initial.new_zeros(q, length * q)
        rows = []
        for t in range(length):
            states = self.transition @ states
            states[:, t * q : (t + 1) * q] = root(self.process if t else self.initial)
            rows.append(self.observation @ states)
        return torch.cat(rows), self.offset.flatten()


class States(NamedTuple):
    """Normal distributions of the states, with covariances that all sequences share.

    Attributes:
        means: (B, T, q).
        covariances: (T, q, q).
    """

    means: Float[Tensor, "batch length latents"]
    covariances: Float[Tensor, "length latents latents"]


class Filtered(NamedTuple):
    """What the filter finds.

    Attributes:
        predicted: p(z_t | x before t).
        filtered: p(z_t | x up to t).
        log_likelihood: log p(x), nats, (B,).
    """

    predicted: States
    filtered: States
    log_likelihood: Float[Tensor, " batch"]


class Smoothed(NamedTuple):
    """What the smoother finds.

    Attributes:
        states: p(z_t | x).
        pairs: the covariance of z_{t+1} and z_t given x, (T − 1, q, q).
        log_likelihood: log p(x), nats, (B,).
    """

    states: States
    pairs: Float[Tensor, "steps latents latents"]
    log_likelihood: Float[Tensor, " batch"]


def kalman_filter(p: System, x: Float[Tensor, "batch length values"]) -> Filtered:
    """Forward."""
    latents = len(p.transition)
    eye = torch.eye(latents, dtype=x.dtype, device=x.device)
    likelihood = torch.zeros_like(x[:, 0, 0])
    mean, covariance = x.new_zeros(len(x), latents), p.initial
    predicted, filtered = [], []
    for t, noise in enumerate(p.noise.expand_as(p.offset)):
        predicted.append((mean, covariance))
        seen = noise.isfinite()
        c, r = p.observation[seen], noise[seen]
        chol = torch.linalg.cholesky(c @ covariance @ c.T + torch.diag(r))
        gain = torch.cholesky_solve(c @ covariance, chol).T
        error = (x[:, t] - p.offset[t])[:, seen] - mean @ c.T
        white = torch.linalg.solve_triangular(chol, error.T, upper=False)
        log_det = chol.diagonal().log().sum()
        normalisation = log_det + 0.5 * len(r) * math.log(2 * math.pi)
        likelihood = likelihood - 0.5 * white.square().sum(0) - normalisation
        mean = mean + error @ gain.T
        rest = eye - gain @ c
        covariance = rest @ covariance @ rest.T + gain * r @ gain.T
        filtered.append((mean, covariance))
        mean = mean @ p.transition.T
        covariance = _symmetric(p.transition @ covariance @ p.transition.T + p.process)
    return Filtered(_states(predicted), _states(filtered), likelihood)


def kalman_smoother(p: System, x: Float[Tensor, "batch length values"]) -> Smoothed:
    """Forward and back."""
    predicted, filtered, likelihood = kalman_filter(p, x)
    mean, covariance = filtered.means[:, -1], filtered.covariances[-1]
    smoothed, pairs = [(mean, covariance)], []
    for t in range(x.shape[1] - 2, -1, -1):
        before, after = filtered.covariances[t], predicted.covariances[t + 1]
        gain = torch.linalg.solve(after, p.transition @ before).T
        pairs.append(covariance @ gain.T)
        mean = filtered.means[:, t] + (mean - predicted.means[:, t + 1]) @ gain.T
        covariance = _symmetric(before + gain @ (covariance - after) @ gain.T)
        smoothed.append((mean, covariance))
    steps = torch.stack(pairs[::-1]) if pairs else p.transition.new_zeros(0, *p.transition.shape)
    return Smoothed(_states(smoothed[::-1]), steps, likelihood)


def em_step(
    p: System, x: Float[Tensor, "batch length values"], least: float
) -> tuple[System, Tensor]:
    """One iteration of EM (Shumway & Stoffer 1982), which never lowers the likelihood.

    Args:
        p: the parameters, with one noise for all steps.
        x: the sequences.
        least: what each r is kept above.

    Returns:
        The new parameters, and the log-likelihood of the old ones, nats, (B,).
    """
    expected = kalman_smoother(p, x)
    return maximise_system(p, x, expected, least), expected.log_likelihood


def maximise_system(
    p: System, x: Float[Tensor, "batch length values"], expected: Smoothed, least: float
) -> System:
    r"""The M-step: the parameters that maximise the expected likelihood.

    With all expectations given x, and sums over t and sequences,

    .. math::
        A &= \sum E[z_t z_{t-1}^\top] \Big(\sum E[z_{t-1} z_{t-1}^\top]\Big)^{-1}, \quad
        Q = \overline{E[z_t z_t^\top]} - A\, \overline{E[z_{t-1} z_t^\top]} \\
        C &= \sum \tilde x_t E[z_t]^\top \Big(\sum E[z_t z_t^\top]\Big)^{-1}, \quad
        r = \mathrm{diag}\big(\overline{\tilde x_t \tilde x_t^\top}
            - C\, \overline{E[z_t] \tilde x_t^\top}\big), \quad \tilde x_t = x_t - d_t

    The offset stays: states have mean zero, so the mean over sequences is its maximum.

    Args:
        p: the parameters of before.
        x: the sequences.
        expected: what the smoother finds with them.
        least: what each r is kept above.
    """
    (means, covariances), pairs, _ = expected
    batch, length = x.shape[:2]
    second = torch.einsum("bti,btj->tij", means, means) + batch * covariances
    initial = _symmetric(second[0] / batch)
    transition, process = p.transition, p.process
    if length > 1:
        cross = torch.einsum("bti,btj->ij", means[:, 1:], means[:, :-1]) + batch * pairs.sum(0)
        transition = torch.linalg.solve(second[:-1].sum(0), cross.T).T
        process = (second[1:].sum(0) - transition @ cross.T) / (batch * (length - 1))
    centred = x - p.offset
    seen = torch.einsum("btm,bti->mi", centred, means)
    observation = torch.linalg.solve(second.sum(0), seen.T).T
    noise = (centred.square().sum((0, 1)) - (observation * seen).sum(1)) / (batch * length)
    return System(
        initial,
        transition,
        _symmetric(process),
        observation,
        p.offset,
        noise.clamp(min=least),
    )


def root(covariance: Tensor) -> Tensor:
    """A square root of a covariance that may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2


def _states(pairs: list[tuple[Tensor, Tensor]]) -> States:
    return States(torch.stack([m for m, _ in pairs], 1), torch.stack([c for _, c in pairs]))
