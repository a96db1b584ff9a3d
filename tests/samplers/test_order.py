"""How fast deterministic samplers converge to the exact transport of Gaussian data.

For N(0, σ²) data the probability-flow ODE scales each state: x_t grows with the standard deviation
√(ᾱ_t σ² + 1 − ᾱ_t) of its marginal. The denoiser is exact and everything is float64, so the error
is the integrator's alone. The levels of the chain are even in the log-SNR and the walk ends at
level 1, which holds as much noise as signal, so that no error cancels by symmetry.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nelbo import Diffusion, NoiseSchedule
from nelbo.samplers import DDIM, DPMSolver, Euler, Heun, Sampler
from tests.oracles.gaussian import exact_epsilon

STD = 0.5
STEPS = np.array([40, 80, 160, 320])
T = int(STEPS[-1]) + 1
HALF_LOG_SNR = torch.linspace(0.0, -4.0, T, dtype=torch.float64)
SCHEDULE = NoiseSchedule.from_alphas_cumprod(torch.sigmoid(2 * HALF_LOG_SNR))


def gaussian_model() -> Diffusion:
    exact = exact_epsilon(SCHEDULE, STD)
    return Diffusion(lambda x, time, condition: exact(x, time.long()), SCHEDULE, shape=(1, 1, 1))


def slope(errors: list[float]) -> float:
    """Of log error over log step size, by least squares."""
    return -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]


def at_level_1(sampler: Sampler) -> float:
    model = gaussian_model()
    x_T = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    states = list(sampler.iterate(model, x_T))
    # A walk to the data passes level 1 before its last step.
    passed = [state.x for state in states if state.t == 1]
    return (passed or [states[-1].x])[-1].item()


def errors(kind: str) -> list[float]:
    a = SCHEDULE.alphas_cumprod[[1, -1]]
    end, start = torch.sqrt(a * STD**2 + 1 - a).tolist()
    solver = {"spacing": "linspace", "set_alpha_to_one": False}
    samplers = {
        "DDIM": lambda levels: DDIM(levels=levels),
        "Euler": lambda levels: Euler(levels=levels),
        "Heun": lambda levels: Heun(levels=levels),
        "DPM-Solver++ 1": lambda levels: DPMSolver(len(levels) - 1, 1, **solver),
        "DPM-Solver++ 2": lambda levels: DPMSolver(len(levels) - 1, 2, **solver),
        "DPM-Solver++ 2 heun": lambda levels: DPMSolver(
            len(levels) - 1, 2, solver_type="heun", **solver
        ),
        "DPM-Solver++ 3": lambda levels: DPMSolver(len(levels) - 1, 3, **solver),
        "DPM-Solver++ 3 of diffusers": lambda levels: DPMSolver(
            len(levels) - 1, 3, halve_second_derivative=True, **solver
        ),
    }
    walks = [list(range(1, T + 1, (T - 1) // steps)) for steps in STEPS]
    return [abs(at_level_1(samplers[kind](levels)) - end / start) for levels in walks]


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("DDIM", 1),
        ("Euler", 1),
        ("Heun", 2),
        ("DPM-Solver++ 1", 1),
        ("DPM-Solver++ 2", 2),
        ("DPM-Solver++ 2 heun", 2),
        ("DPM-Solver++ 3", 3),
        # with half of the second derivative
        ("DPM-Solver++ 3 of diffusers", 2),
    ],
)
def test_converges_at_its_theoretical_order(kind, order):
    found = errors(kind)
    assert slope(found) == pytest.approx(order, abs=0.15), found


def test_higher_orders_are_nearer_at_few_steps():
    first = [errors(kind)[0] for kind in ("DDIM", "DPM-Solver++ 2", "DPM-Solver++ 3")]
    assert first[0] > 5 * first[1] > 10 * first[2], first
