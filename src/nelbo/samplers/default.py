"""Which sampler suits a chain where nobody asks for one."""

from __future__ import annotations

import torch

from nelbo.diffusion import NoiseSchedule
from nelbo.samplers.base import Sampler
from nelbo.samplers.dpm_solver import DPMSolver

_STEPS = 25


def default_sampler(schedule: NoiseSchedule, steps: int | None = None) -> Sampler:
    """The sampler of at most 50 network calls that draws best from such a chain.

    Args:
        schedule: the chain.
        steps: how many steps; None for what suits the sampler.
    """
    wanted = _STEPS if steps is None else steps
    at_most = schedule.num_levels if steps is None else wanted
    return DPMSolver(min(wanted, at_most), noise_levels="log_snr")


def angle_levels(schedule: NoiseSchedule, steps: int) -> list[int]:
    r"""Levels at which :math:`x_t = \cos\varphi\, x_0 + \sin\varphi\, \epsilon` turns evenly.

    φ goes from that of the last level in `steps` even parts to 0, the data; where the chain has
    fewer levels than that somewhere, the walk has fewer steps.
    """
    angles = torch.atan2(schedule.noise_scale, schedule.signal_scale)
    wanted = torch.linspace(0.0, float(angles[-1]), steps + 1, dtype=torch.float64)[1:]
    nearest = torch.searchsorted(angles[1:], wanted).clamp(max=schedule.num_levels - 1) + 1
    return sorted(set(nearest.tolist()))
