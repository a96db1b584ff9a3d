r"""The reverse variance :math:`\Sigma_t` of :math:`p(x_{t-1}|x_t)`.

:math:`\beta_t` and :math:`\tilde\beta_t` are the optimal choices for data of unit variance and for
a single point (Ho et al. 2020, section 3.2). :math:`\tilde\beta_1 = 0`, so at t = 1
:math:`\tilde\beta_2` takes its place, as in DDPM.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from nelbo.diffusion.schedule import Levels, NoiseSchedule

# Reads a named table at the level of each example, broadcastable to the state.
Read = Callable[[str], Tensor]


class FixedVariance:
    """One variance a level, the same for every pixel.

    Args:
        variance: Σ_t at every level, (T+1,).
    """

    is_learned = False

    def __init__(self, variance: Levels) -> None:
        self.tables = {"log_variance": variance.log()}

    def log(self, read: Read, output: Tensor | None) -> Tensor:
        """log Σ_t, broadcastable to the state."""
        return read("log_variance")


class LearnedRange:
    r"""The network chooses between two variances for every pixel.

    :math:`\Sigma_t = \exp(f \log\beta_t + (1 - f) \log\tilde\beta_t)` with
    :math:`f = (v + 1)/2` from its second C channels (Nichol & Dhariwal 2021, eq. 15).

    Args:
        low: β̃_t, (T+1,).
        high: β_t, (T+1,).
    """

    is_learned = True

    def __init__(self, low: Levels, high: Levels) -> None:
        self.tables = {"log_low": low.log(), "log_high": high.log()}

    def log(self, read: Read, output: Tensor | None) -> Tensor:
        """log Σ_t, one value a pixel."""
        assert output is not None
        fraction = (output + 1) / 2
        return fraction * read("log_high") + (1 - fraction) * read("log_low")


ReverseVariance = FixedVariance | LearnedRange

VARIANCES: dict[str, Callable[[NoiseSchedule], ReverseVariance]] = {
    "fixed_small": lambda schedule: FixedVariance(_positive_posterior_variance(schedule)),
    "fixed_large": lambda schedule: FixedVariance(schedule.betas),
    "learned_range": lambda schedule: LearnedRange(
        _positive_posterior_variance(schedule), schedule.betas
    ),
}


def _positive_posterior_variance(schedule: NoiseSchedule) -> Levels:
    variance = schedule.posterior_variance.clone()
    # A chain of one level has no β̃_2; β_1 is what is left.
    variance[1] = variance[2] if schedule.num_levels > 1 else schedule.betas[1]
    return variance
