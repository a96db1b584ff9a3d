r"""DPM-Solver++ (Lu et al. 2022b), multistep, and its stochastic variant.

With :math:`a = \sqrt{\bar\alpha}`, :math:`s = \sqrt{1 - \bar\alpha}` and half the log-SNR
:math:`\lambda = \log(a / s)` for time, the probability-flow ODE from level t to level u with
:math:`h = \lambda_u - \lambda_t` has the exact solution (proposition 4.1)

.. math::
    x_u = \frac{s_u}{s_t} x_t
        + a_u \int_0^h e^{-(h - \tau)} \hat x_0(\lambda_t + \tau)\, d\tau.

Order k replaces :math:`\hat x_0` by the Taylor polynomial of degree k − 1 whose derivatives are
divided differences of the last k predictions,

.. math::
    x_u &= \frac{s_u}{s_t} x_t + a_u \left(
        \varphi_1 \hat x_0 + \varphi_2\, h \hat x_0' + \varphi_3\, h^2 \hat x_0'' \right), \\
    \varphi_1 &= 1 - e^{-h}, \qquad \varphi_2 = 1 - \varphi_1 / h, \qquad
    \varphi_3 = \tfrac12 - \varphi_2 / h.

The reverse SDE has the same solution with 2h in place of h in each φ, a further factor
:math:`e^{-h}` on :math:`x_t`, and noise of variance :math:`s_u^2 (1 - e^{-2h})` (section 5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import unknown
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import Generators, randn_like
from nelbo.diffusion import Diffusion, NoiseLevel, NoiseSchedule
from nelbo.networks.guidance import Guidance
from nelbo.samplers.base import Sampler, State
from nelbo.samplers.noise_levels import NO_NOISE, SigmaChain, noise_scales
from nelbo.samplers.spacing import check_steps, checked_levels, remaining_steps, spaced_levels

SOLVER_TYPES = ("midpoint", "heun")

# Which levels of the chain, where it is to be levels of the chain.
_USUAL_SPACING = "trailing"
# diffusers takes lower orders at the end of walks that are shorter than this.
_SHORT_WALK = 15


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """Multistep integration in the log-SNR: one network call a step, whatever the order.

    Args:
        steps: how many.
        order: 1 (DDIM), 2 or 3; the first steps have lower orders.
        stochastic: the reverse SDE, of order 1 or 2, in place of the ODE.
        spacing: visit levels of the chain: "leading", "linspace" or "trailing". The first two
            count one more level, which the data take, as in diffusers. None leaves the choice to
            `noise_levels`.
        steps_offset: added to the levels of "leading"; 1 in Stable Diffusion.
        noise_levels: "spaced" for the levels of `spacing`; "karras" or "log_snr" for others
            between the ends of the chain, where the network is told the nearest level. None is
            "log_snr" without a spacing, and "spaced" with one.
        skip: how many of the first steps to leave out; x_T is then what the next one starts from.
        levels: levels of the chain to visit, increasing, in place of steps and spacing.
        rho: ρ of "karras".
        solver_type: how order 2 weighs the slope: "heun" by φ_2, "midpoint" by φ_1 / 2.
        lower_order_final: walks of fewer than 15 steps end with the orders 2 and 1.
        euler_at_final: the last step has order 1; it always has where it goes to the data.
        set_alpha_to_one: the last step goes to the data, ᾱ_0 = 1; else to the noise of level 1,
            whose draw is taken for the data.
        halve_second_derivative: order 3 weighs x̂_0'' by φ_3 / 2, as diffusers does; the error is
            then of second order. False weighs it by φ_3, which is of third.

    Raises:
        NelboError: an order or solver type that there is none of, or nothing is left after `skip`.
    """

    steps: int = 20
    order: int = 2
    stochastic: bool = False
    spacing: str | None = None
    steps_offset: int = 0
    noise_levels: str | None = None
    skip: int = 0
    levels: Sequence[int] | None = None
    rho: float = 7.0
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    set_alpha_to_one: bool = True
    halve_second_derivative: bool = True

    def __post_init__(self) -> None:
        orders = (1, 2) if self.stochastic else (1, 2, 3)
        if self.order not in orders:
            kind = "stochastic " if self.stochastic else ""
            raise NelboError(
                f"{kind}DPMSolver has the orders {', '.join(map(str, orders))}, got {self.order}"
            )
        if self.solver_type not in SOLVER_TYPES:
            raise NelboError(unknown("solver_type", self.solver_type, SOLVER_TYPES))

    @property
    def kind_of_levels(self) -> str:
        """`noise_levels`, or what they are where they are left open."""
        return self.noise_levels or ("log_snr" if self.spacing is None else "spaced")

    def timesteps(self, schedule: NoiseSchedule) -> list[int]:
        """The network times visited, descending."""
        walk = self._walk(SigmaChain(schedule))
        return [int(level.network_time) for level in walk[:-1]]

    def start_level(self, schedule: NoiseSchedule) -> NoiseLevel:
        """The noise level that the walk starts from, which may lie between two of the chain."""
        return self._walk(SigmaChain(schedule))[0]

    @torch.no_grad()
    def walk(
        self,
        model: Diffusion,
        x: Tensor,
        *,
        condition: Condition | None = None,
        guidance: float | Guidance = 1.0,
        generator: Generators | None = None,
    ) -> Iterator[State]:
        """Walk from x to x_0, one state a step."""
        guided = model.guided(guidance)
        walk = self._walk(SigmaChain(model.schedule))
        steps = len(walk) - 1
        past: list[tuple[float, Tensor]] = []  # λ and x̂_0, the latest first
        for step, (level, following) in enumerate(pairwise(walk)):
            x_0 = guided.predict_at(x, level, condition).x_0
            past = [(level.half_log_snr, x_0), *past[: self.order - 1]]
            order = self._order(step, steps)
            x = self._advance(x, past[:order], level, following, generator)
            yield State(x, x_0, following.t if step + 1 < steps else 0)

    def _walk(self, chain: SigmaChain) -> list[NoiseLevel]:
        """The levels of all steps, and the one that the last step leads to."""
        if self.kind_of_levels == "spaced" or self.levels is not None:
            places = np.array(self._chain_levels(len(chain.sigmas))[::-1]) - 1
            sigmas = chain.sigmas[places]
        else:
            check_steps(len(chain.sigmas), self.steps)
            ends = chain.sigmas[-1], chain.sigmas[0]
            sigmas = noise_scales(*ends, self.steps, self.kind_of_levels, self.rho)
            places = chain.places_of(sigmas)
        first = chain.rounded_levels(chain.sigmas[:1], np.zeros(1))
        last = [NO_NOISE] if self.set_alpha_to_one else first
        levels = chain.rounded_levels(sigmas, places)
        return [*levels[-remaining_steps(len(levels), self.skip) :], *last]

    def _chain_levels(self, T: int) -> list[int]:
        if self.levels is not None:
            return checked_levels(T, self.levels)
        spacing = self.spacing or _USUAL_SPACING
        if spacing == "trailing" or not 1 <= self.steps < T:
            return spaced_levels(T, self.steps, spacing, self.steps_offset)
        return spaced_levels(T, self.steps + 1, spacing, self.steps_offset)[1:]

    def _order(self, step: int, steps: int) -> int:
        """The order of a step: as many predictions as there are, and fewer at the end."""
        left = steps - step
        order = min(self.order, step + 1)
        if left == 1 and (self.euler_at_final or self.set_alpha_to_one):
            return 1
        return min(order, left) if self.lower_order_final and steps < _SHORT_WALK else order

    def _advance(
        self,
        x: Tensor,
        past: list[tuple[float, Tensor]],
        level: NoiseLevel,
        following: NoiseLevel,
        generator: Generators | None,
    ) -> Tensor:
        """The state at the following level, by the order of as many predictions as are given."""
        h = following.half_log_snr - level.half_log_snr
        if h == 0:  # a walk to the noise of level 1 that has already come there
            return x
        H = 2 * h if self.stochastic else h
        phi_1 = -math.expm1(-H)
        integral = phi_1 * past[0][1]
        if len(past) > 1:
            phi_2 = 1 - phi_1 / H
            slope, second = _differences(past, h)
            is_midpoint = len(past) == 2 and self.solver_type == "midpoint"
            integral = integral + (phi_1 / 2 if is_midpoint else phi_2) * slope
            if second is not None:
                phi_3 = 0.5 - phi_2 / H
                weight = phi_3 / 2 if self.halve_second_derivative else phi_3
                integral = integral + weight * second
        scale = following.noise_scale / level.noise_scale
        if not self.stochastic:
            return scale * x + following.signal_scale * integral
        x = scale * math.exp(-h) * x + following.signal_scale * integral
        if following.noise_scale == 0:
            return x
        return x + following.noise_scale * math.sqrt(phi_1) * randn_like(x, generator)


def _differences(past: list[tuple[float, Tensor]], h: float) -> tuple[Tensor, Tensor | None]:
    """h x̂_0' and h² x̂_0'' in λ at the latest of two or three predictions."""
    (lambda_0, x_0), (lambda_1, x_1), *older = past
    slope = (h / (lambda_0 - lambda_1)) * (x_0 - x_1)
    if not older:
        return slope, None
    [(lambda_2, x_2)] = older
    previous = (h / (lambda_1 - lambda_2)) * (x_1 - x_2)
    # The slopes belong to the middles of their intervals.
    second = (2 * h / (lambda_0 - lambda_2)) * (slope - previous)
    return slope + ((lambda_0 - lambda_1) / (2 * h)) * second, second
