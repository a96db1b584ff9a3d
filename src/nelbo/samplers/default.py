"""Which sampler suits a chain where nobody asks for one: the one place that decides it.

Measured in docs/samplers.md; see docs/decisions/0016-default-sampler.md.
"""

from __future__ import annotations

import torch

from nelbo.diffusion import NoiseSchedule
from nelbo.samplers.base import Sampler
from nelbo.samplers.dpm_solver import DPMSolver
from nelbo.samplers.spacing import check_steps

_STEPS = 50


def default_sampler(schedule: NoiseSchedule, steps: int | None = None) -> Sampler:
    """The stochastic DPM-Solver++ of order 2 on levels that are even in the angle of the chain.

    Args:
        schedule: the chain.
        steps: network calls; None for 50, or every level of a chain that has fewer.

    Raises:
        NelboError: `steps` outside 1..T.
    """
    steps = min(_STEPS, schedule.num_levels) if steps is None else steps
    check_steps(schedule.num_levels, steps)
    return DPMSolver(steps, stochastic=True, levels=angle_levels(schedule, steps))


def angle_levels(schedule: NoiseSchedule, steps: int) -> list[int]:
    r"""Levels at which :math:`x_t = \cos\varphi\, x_0 + \sin\varphi\, \epsilon` turns evenly.

    φ goes from that of the last level in `steps` even parts to 0, the data; where the chain has
    fewer levels than that somewhere, the walk has fewer steps. On a cosine chain they are
    nearly the "trailing" levels.
    """
    angles = torch.atan2(schedule.noise_scale, schedule.signal_scale)
    wanted = torch.linspace(0.0, float(angles[-1]), steps + 1, dtype=torch.float64)[1:]
    nearest = torch.searchsorted(angles[1:], wanted).clamp(max=schedule.num_levels - 1) + 1
    return sorted(set(nearest.tolist()))
