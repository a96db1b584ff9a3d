r"""DPM-Solver++ (Lu et al. 2022b), multistep, and its stochastic variant.

From level s to level t, with λ = log(α / σ) for time and h = λ_t − λ_s, the probability-flow ODE
has the exact solution (proposition 4.1)

.. math::
    x_t = \frac{\sigma_t}{\sigma_s} x_s
        + \alpha_t \int_0^h e^{-(h - \tau)}\, \hat x_0(\lambda_s + \tau)\, d\tau.

Order k takes for :math:`\hat x_0` the Taylor polynomial whose derivatives are differences of the
last k predictions, so that the integral is :math:`\varphi_1 \hat x_0 + \varphi_2 h \hat x_0' +
\varphi_3 h^2 \hat x_0''` with :math:`\varphi_1 = 1 - e^{-h}`, :math:`\varphi_2 = 1 - \varphi_1/h`,
:math:`\varphi_3 = \tfrac12 - \varphi_2/h`. The reverse SDE has 2h for h in each φ, a further factor
:math:`e^{-h}` on x_s, and noise of variance :math:`\sigma_t^2 (1 - e^{-2h})` (section 5).
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from nelbo.base.arguments import check_choice, check_count
from nelbo.base.errors import NelboError
from nelbo.diffusion import NoiseLevel
from nelbo.samplers.loop import Walk
from nelbo.samplers.multistep import MultistepSampler, derivatives

SOLVER_TYPES = ("midpoint", "heun")
# A step shorter than this in λ is one of rounding, which may be below 0.
_NO_LENGTH = 1e-9


@dataclass(frozen=True)
class DPMSolver(MultistepSampler):
    """Multistep integration in the log-SNR; options as `MultistepSampler`, and these.

    Args:
        order: 1 (DDIM), 2, or for the ODE 3.
        stochastic: the reverse SDE in place of the ODE.
        solver_type: how order 2 weighs the slope: "heun" by φ_2, "midpoint" by φ_1 / 2.
        halve_second_derivative: weigh x̂_0'' by φ_3 / 2, as diffusers does; order 3 is then 2.
    """

    _: KW_ONLY
    stochastic: bool = False
    solver_type: str = "midpoint"
    halve_second_derivative: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("order", self.order, least=0)
        kind, orders = ("stochastic ", (1, 2)) if self.stochastic else ("", (1, 2, 3))
        if self.order not in orders:
            among = ", ".join(map(str, orders))
            raise NelboError(f"{kind}DPMSolver has the orders {among}, got {self.order}")
        check_choice("solver_type", self.solver_type, SOLVER_TYPES)

    def step(self, walk: Walk, x: Tensor, s: NoiseLevel, t: NoiseLevel) -> tuple[Tensor, Tensor]:
        """The solution at t with the polynomial through the last predictions."""
        x_0 = walk.predict(x, s).x_0
        h = t.half_log_snr - s.half_log_snr
        if h < _NO_LENGTH:  # a walk to the noise of level 1 that is there already
            return x, x_0
        H = 2 * h if self.stochastic else h
        phi_1 = -math.expm1(-H)
        integral = phi_1 * x_0
        if len(past := self.read(walk, s, x_0, t)) > 1:
            phi_2 = 1 - phi_1 / H
            first, second = derivatives(past, h)
            midpoint = second is None and self.solver_type == "midpoint"
            integral = integral + (phi_1 / 2 if midpoint else phi_2) * first
            if second is not None:
                phi_3 = (0.5 - phi_2 / H) * (0.5 if self.halve_second_derivative else 1)
                integral = integral + phi_3 * second
        decay = t.noise_scale / s.noise_scale * (math.exp(-h) if self.stochastic else 1)
        x = decay * x + t.signal_scale * integral
        if self.stochastic and t.noise_scale > 0:
            x = x + t.noise_scale * math.sqrt(phi_1) * walk.noise(x)
        return x, x_0
