r"""The log-likelihood of a diffusion model by its probability-flow ODE.

The diffusion that adds noise has a deterministic twin with the same marginals (Song et al. 2021,
eq. 13). With preserved variance, :math:`a^2 + s^2 = 1`, and :math:`u = \log(s/a)` for time, it is

.. math::
    \frac{dx}{du} = a\,(a x - \hat x_0(x, u)), \qquad
    \frac{d \log p(x)}{du} = -a\,\Big(a D - \mathrm{tr}\,\frac{\partial \hat x_0}{\partial x}\Big)

(the second by the change of variables of Chen et al. 2018, theorem 1), so that the density of a
state at level 1 is that of the state it flows to under the prior N(0, I), plus an integral

.. math::
    \log p(x_1) = \log N(x_T; 0, I)
        + \int_{u_1}^{u_T} a\,\Big(a D - \mathrm{tr}\,\frac{\partial \hat x_0}{\partial x}\Big)\,du

(Song et al. 2021, eq. 39). For data of unit variance the flow stands still, so that x needs no
rescaling and steps can be long. Where the model clips :math:`\hat x_0`, so does its flow, with the
derivative of the clip.

**From levels to time.** The chain knows the levels 1..T only. Between them a and s are those of u
itself, and the network is called at the fraction of a level that is linear in u
(`NoiseSchedule.at_log_snr`), as by the samplers for ODEs. A network that accepts whole numbers only
cannot be used.

**From pixels to densities.** See `nelbo.diffusion.dequantization`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.base.arguments import check_choice, check_count, check_numbers
from nelbo.base.errors import NelboError, optional
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.distributions import randn_like
from nelbo.chain.examples import check_examples
from nelbo.chain.model import check_model
from nelbo.chain.terms import per_example
from nelbo.diffusion.dequantization import Dequantization, default_dequantization, dequantize
from nelbo.diffusion.model import Diffusion
from nelbo.diffusion.noise_level import NoiseLevel
from nelbo.diffusion.schedule import NoiseSchedule

TRACES = ("rademacher", "normal", "exact")
METHODS = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
# The exact trace costs as many backward passes at each evaluation.
MAX_EXACT_DIMS = 1024

# (x̂_0, x) -> tr ∂x̂_0/∂x, (B,)
Trace = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FlowLikelihood:
    """The likelihood of each example of a batch by the flow.

    Attributes:
        log_likelihood: log P(x_0) or a lower bound on it, for pixels; log p(x_0) for continuous
            data; nats, (B,). With one Hutchinson probe its expectation is meant.
        dims: number of dimensions of one example.
        evaluations: network evaluations for each example. Those of the flow count the forward
            pass; the divergence takes a backward pass beside each, or D for the exact trace.
    """

    log_likelihood: Float[Tensor, " batch"]
    dims: int
    evaluations: int

    @property
    def bits_per_dim(self) -> Float[Tensor, " batch"]:
        """−log₂ of the likelihood over the number of dimensions, (B,)."""
        return -self.log_likelihood / (self.dims * math.log(2.0))


def log_likelihood(
    model: Diffusion,
    x_0: Float[Tensor, "batch ..."],
    condition: Condition | None = None,
    *,
    dequantization: str | None = None,
    noise_scale: float | None = None,
    draws: int = 1,
    trace: str = "rademacher",
    probes: int = 1,
    method: str = "dopri5",
    rtol: float = 1e-4,
    atol: float = 1e-4,
    generator: torch.Generator | None = None,
) -> FlowLikelihood:
    """The log-likelihood of each example by the probability-flow ODE (Song et al. 2021, eq. 39).

    Args:
        model: the model, in evaluation mode.
        x_0: data, (B, ...).
        condition: what the model is conditioned on for each example.
        dequantization: how pixels become real numbers: "decoder" (the default for pixels),
            "truncated_normal" or "uniform"; "none" (the default for continuous data) takes x_0
            itself for the state at level 1. See `nelbo.diffusion.dequantization`.
        noise_scale: s/a at which the flow starts, at least that of level 1; not for "decoder".
        draws: how many dequantised states S are averaged in the likelihood, which tightens the
            bound (Burda et al. 2016); more than one needs the exact trace.
        trace: "rademacher" or "normal" probes of Hutchinson's estimator, fixed along the
            trajectory (Grathwohl et al. 2019), or "exact" for at most 1,024 dimensions.
        probes: how many Hutchinson probes to average.
        method: one of torchdiffeq's adaptive integrators.
        rtol: relative tolerance of each step for each example.
        atol: absolute tolerance, of a value of the state and of the log-density a dimension.
        generator: the source of all noise.

    Raises:
        MissingExtraError: torchdiffeq is not installed.
        NelboError: `x_0` that is not data of this model, or an option that it has no use for.
    """
    _check_options(model, trace, probes, draws, method, rtol, atol)
    model.check_data(x_0)
    check_condition(condition, len(x_0))
    x_0, dims = _at_least_float32(x_0), x_0[0].numel()
    if trace == "exact" and dims > MAX_EXACT_DIMS:
        raise NelboError(
            f"the exact trace is for at most {MAX_EXACT_DIMS:,} dimensions, the data have "
            f"{dims:,}: use trace='rademacher'"
        )
    kind = default_dequantization(model) if dequantization is None else dequantization
    solve = _solver(method, rtol, atol)
    log_weights, evaluations = [], 0
    for _ in range(draws):
        start = dequantize(model, x_0, condition, kind, noise_scale, generator)
        field = _Field(model, condition, _trace(trace, probes, start.x, generator))
        log_density = _log_density(solve, field, start)
        log_weights.append(start.log_weight + log_density)
        evaluations += start.evaluations + field.evaluations
    # S = 1 is the plain bound; the log of the mean of S weights is a tighter one.
    total = torch.stack(log_weights).logsumexp(0) - math.log(draws)
    return FlowLikelihood(total.to(x_0.dtype), dims, evaluations)


def encode(
    model: Diffusion,
    x_1: Float[Tensor, "batch ..."],
    condition: Condition | None = None,
    *,
    method: str = "dopri5",
    rtol: float = 1e-4,
    atol: float = 1e-4,
) -> Float[Tensor, "batch ..."]:
    """The latent x_T that a state at level 1 flows to, (B, ...); errors as `log_likelihood`."""
    return _transport(model, x_1, condition, 1, method, rtol, atol)


def decode(
    model: Diffusion,
    x_T: Float[Tensor, "batch ..."],
    condition: Condition | None = None,
    *,
    method: str = "dopri5",
    rtol: float = 1e-4,
    atol: float = 1e-4,
) -> Float[Tensor, "batch ..."]:
    """The state at level 1 that flows to x_T, the inverse of `encode`."""
    return _transport(model, x_T, condition, -1, method, rtol, atol)


class _Field:
    """The right-hand side: of the state, and of its log-density a dimension where `trace` is."""

    def __init__(self, model: Diffusion, condition: Condition | None, trace: Trace | None) -> None:
        self.model = model
        self.condition = condition
        self.trace = trace
        self.first, self.last = _ends(model.schedule)
        self.evaluations = 0

    def __call__(self, u: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.evaluations += 1
        x = state[0]
        # The search for a first step looks beyond the chain, where no network was trained.
        level = self.model.schedule.at_log_snr(-2 * max(self.first, min(self.last, float(u))))
        a = level.signal_scale
        if self.trace is None:
            return (a * (a * x - self.x_0(x, level)),)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x_0 = self.x_0(x, level)
            trace = self.trace(x_0, x)
        x, x_0 = x.detach(), x_0.detach()
        return a * (a * x - x_0), a * (a - trace.detach() / x[0].numel())

    def x_0(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """The predicted data at a state of a noise level."""
        return self.model.predict_at(x, level, self.condition).differentiable_x_0()


def _ends(schedule: NoiseSchedule) -> tuple[float, float]:
    """u at level 1 and at the last level with signal, as one without lies at infinity."""
    levels = int((schedule.alphas_cumprod[1:] > 0).sum())
    if levels < 2:
        raise NelboError(f"a flow needs at least two levels with signal, the chain has {levels}")
    u = -0.5 * schedule.log_snr
    return float(u[1]), float(u[levels])


def _log_density(
    solve: Callable[..., tuple[Tensor, ...]], field: _Field, start: Dequantization
) -> Float[Tensor, " batch"]:
    """log p(x) of states at the start of the flow, nats, (B,)."""
    x, ends = start.x, (start.log_noise, field.last)
    x_T, change = solve(field, (x, x.new_zeros(len(x))), ends)
    dims = x[0].numel()
    wide = x_T.double()
    prior = -0.5 * (per_example(wide.square()) + dims * math.log(2 * math.pi))
    return prior + dims * change.double()


def _transport(
    model: Diffusion,
    x: Tensor,
    condition: Condition | None,
    direction: int,
    method: str,
    rtol: float,
    atol: float,
) -> Tensor:
    _check_options(model, "exact", 1, 1, method, rtol, atol)
    _check_states(model, "x_1" if direction > 0 else "x_T", x)
    check_condition(condition, len(x))
    field = _Field(model, condition, None)
    ends = (field.first, field.last)[::direction]
    return _solver(method, rtol, atol)(field, (_at_least_float32(x),), ends)[0]


def _check_states(model: Diffusion, name: str, x: Tensor) -> None:
    check_examples(**{name: x})
    if not len(x):
        raise NelboError(f"{name} is a batch of no states: give at least one")
    if model.shape is not None and tuple(x.shape[1:]) != model.shape:
        raise NelboError(f"{name} has shape {tuple(x.shape)}, expected {(len(x), *model.shape)}")


def _at_least_float32(x: Tensor) -> Tensor:
    """States that steps can be small in, as those of the bound are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _solver(method: str, rtol: float, atol: float) -> Callable[..., tuple[Tensor, ...]]:
    """torchdiffeq's integrator between two ends; returns the state at the second."""
    odeint = optional("torchdiffeq", "the probability-flow likelihood", "flow").odeint

    def solve(
        field: _Field, state: tuple[Tensor, ...], ends: tuple[float, float]
    ) -> tuple[Tensor, ...]:
        times = torch.tensor(ends, dtype=torch.float64, device=state[0].device)
        # It would step past the end, beyond the chain, and interpolate back.
        options: dict[str, Any] = {"norm": _largest_error, "step_t": times[1:]}
        try:
            with torch.no_grad():
                path = odeint(
                    field, state, times, method=method, rtol=rtol, atol=atol, options=options
                )
        except AssertionError as error:  # "underflow in dt", or a state that is not finite
            raise NelboError(
                f"the flow cannot be integrated to rtol={rtol:g}, atol={atol:g} ({error}): "
                "loosen the tolerances, and check that the model is in evaluation mode"
            ) from error
        return tuple(part[-1] for part in path)

    return solve


def _largest_error(state: tuple[Tensor, ...]) -> Tensor:
    """The error of the worst example: root mean square over its state, and that of its density.

    Over the whole batch it would let a hard example hide among easy ones.
    """
    errors = [part.flatten(1) if part.ndim > 1 else part[:, None] for part in state]
    return torch.stack([e.square().mean(1).sqrt().max() for e in errors]).max()


def _trace(kind: str, probes: int, x: Tensor, generator: torch.Generator | None) -> Trace:
    """tr ∂x̂_0/∂x, exactly or by Hutchinson's estimator: the mean of eᵀ(∂x̂_0/∂x)e, E[e eᵀ] = I."""
    if kind == "exact":
        return _exact_trace
    noise = [randn_like(x, generator) for _ in range(probes)]
    directions = [e if kind == "normal" else torch.where(e < 0, -1.0, 1.0).to(e) for e in noise]

    def estimate(x_0: Tensor, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for i, e in enumerate(directions):
            (product,) = torch.autograd.grad(x_0, x, e, retain_graph=i + 1 < len(directions))
            total = total + per_example(product * e)
        return total / len(directions)

    return estimate


def _exact_trace(x_0: Tensor, x: Tensor) -> Tensor:
    flat = x_0.flatten(1)
    total = x.new_zeros(len(x))
    for i in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)
        total = total + row.flatten(1)[:, i]
    return total


def _check_options(
    model: Diffusion, trace: str, probes: int, draws: int, method: str, rtol: float, atol: float
) -> None:
    check_model(model)
    if model.chain is not model:
        raise NelboError(
            f"a flow needs a Diffusion model, got {type(model).__name__}: "
            "nelbo.evidence.likelihood takes any model with a chain"
        )
    check_choice("trace", trace, TRACES)
    check_choice("method", method, METHODS)
    check_count("probes", probes)
    check_draws(draws, trace)
    check_numbers(rtol=rtol, atol=atol)
    if not (rtol > 0 and atol > 0):
        raise NelboError(f"rtol and atol must be positive, got {rtol} and {atol}")


def check_draws(draws: int, trace: str) -> None:
    """Raise `NelboError` unless the mean of `draws` likelihoods with this trace is a bound."""
    check_count("draws", draws)
    if draws > 1 and trace != "exact":
        raise NelboError(
            f"draws={draws} with trace={trace!r} is no lower bound, because the noise of the trace "
            "would be averaged inside the logarithm: use trace='exact', or draws=1"
        )
