"""Which sampler suits a chain where nobody asks for one: the one place that decides it.

Measured in docs/samplers.md; see docs/decisions/0016-default-sampler.md.
"""

from __future__ import annotations

from nelbo.chain.model import Model
from nelbo.diffusion import NoiseSchedule
from nelbo.diffusion.sampler import Sampler
from nelbo.samplers.dpm_solver import DPMSolver
from nelbo.samplers.grid import check_steps

_STEPS = 25


def default_sampler(schedule: NoiseSchedule, steps: int | None = None) -> Sampler:
    """DPM-Solver++ of order 2 on noise levels that are even in the log-SNR.

    Args:
        schedule: the chain.
        steps: network calls; None for 25, or as many as a shorter chain has levels.

    Raises:
        NelboError: `steps` outside 1..T.
    """
    steps = min(_STEPS, schedule.num_levels) if steps is None else steps
    check_steps(schedule.num_levels, steps)
    return DPMSolver(steps)


def suited_sampler(model: Model, steps: int) -> Sampler | None:
    """The default sampler of a model in at most `steps` calls; None for one without a chain."""
    if model.chain is None:
        return None
    return default_sampler(model.chain.schedule, min(steps, model.chain.num_levels))
