"""The coordinates that a new network is trained in: what it predicts, at which state and time.

With flow matching and EDM it receives what networks of diffusers do: the time 1,000 w, and the
state and time of EDM's raw network, whose answer has unit variance at every noise level.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from nelbo.base.arguments import check_choice
from nelbo.base.errors import NelboError
from nelbo.diffusion import NoiseSchedule
from nelbo.diffusion.prediction import PARAMETERIZATIONS, Parameterization, RawDenoiser, Velocity

# What a network is called with where flow matching ends: its embedding is of times up to this.
_FLOW_END = 1000.0


def prediction_of(name: str, sigma_data: Callable[[], float]) -> Parameterization:
    """What a network predicts, by its name.

    Args:
        name: one of `PARAMETERIZATIONS`.
        sigma_data: measures the standard deviation of the data, for a denoiser.

    Raises:
        NelboError: an unknown name, or data that are all the same for a denoiser.
    """
    check_choice("prediction", name, PARAMETERIZATIONS)
    if name == "velocity":
        return Velocity(_FLOW_END)
    if name == "denoiser":
        spread = sigma_data()
        if not 0 < spread < math.inf:
            raise NelboError(
                f"--prediction denoiser: the images have a standard deviation of {spread:g}; it "
                "needs images that differ"
            )
        return RawDenoiser(spread)
    return PARAMETERIZATIONS[name]


def continuous_schedule(
    name: str, levels: int, shift: float, first_noise: float | None = None
) -> NoiseSchedule | None:
    """The chain of flow matching or EDM by its name; None for any other.

    Args:
        name: of the schedule.
        levels: length T of the chain.
        shift: of flow matching.
        first_noise: noise scale √(1 − ᾱ_1); by default that which they have for any data.
    """
    if name == "flow_matching":
        return NoiseSchedule.flow_matching(levels, shift, first_noise=first_noise)
    if name != "variance_exploding":
        return None
    if first_noise is None:
        return NoiseSchedule.variance_exploding(levels)
    return NoiseSchedule.variance_exploding(levels, first_noise / math.sqrt(1 - first_noise**2))
