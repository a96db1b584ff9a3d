"""Which sampler suits a chain where nobody asks for one."""

from __future__ import annotations

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
