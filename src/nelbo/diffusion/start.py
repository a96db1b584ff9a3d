r"""Where a walk from pure noise may start.

The decoder begins with :math:`x_T \sim N(0, I)`, which is what the encoder ends in only where next
to nothing of the data is left. At a level with signal power :math:`\bar\alpha` the encoder's state
is :math:`\sqrt{\bar\alpha}\,x_0 + \sqrt{1 - \bar\alpha}\,\epsilon`, and a network that meets pure
noise there takes part of the noise for a picture (Lin et al. 2024, section 3.3). The walk cannot
take that back, whatever the sampler.
"""

from __future__ import annotations

import math
import warnings

from nelbo.diffusion.noise_level import NoiseLevel
from nelbo.diffusion.schedule import NoiseSchedule

# Signal that the last level of a chain may hold, as a share of the variance: Stable Diffusion's
# holds 0.5% and draws well.
_LARGEST_AT_THE_END = 0.01
# Below the end: one nat between the state of a 32×32 colour picture and noise, and
# twice what the end of the chain holds.
_LARGEST_WITHIN, _TIMES_THE_END = 0.001, 2.0


def warn_of_signal(schedule: NoiseSchedule, level: NoiseLevel, who: str) -> None:
    """Warn where a walk takes x_T ~ N(0, I) for the state of a level that still holds signal.

    Args:
        schedule: the chain.
        level: where the walk starts.
        who: what walks, for the message.
    """
    T = schedule.num_levels
    here, end = math.cos(level.angle) ** 2, float(schedule.alphas_cumprod[-1])
    at_the_end = here <= end * (1 + 1e-9)
    if at_the_end and here > _LARGEST_AT_THE_END:
        warnings.warn(
            f"{who} starts from pure noise at level {T}, where the chain ends with "
            f"{_percent(here)} of the variance still signal; more than "
            f"{_percent(_LARGEST_AT_THE_END)} spoils samples. Use a schedule that ends in noise, "
            "keep the last level where the chain is respaced, or start from an x_T that holds the "
            "signal",
            stacklevel=3,
        )
    elif here > max(_LARGEST_WITHIN, _TIMES_THE_END * end) and not at_the_end:
        warnings.warn(
            f"{who} starts from pure noise at level {level.t} of {T}, where {_percent(here)} of "
            f"the variance is signal; at level {T}, where the chain ends, it is {_percent(end)}. "
            "That spoils samples: use spacing='trailing' (--spacing trailing), which starts at the "
            "end of the chain, or levels that include the last",
            stacklevel=3,
        )


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.0f}%"
