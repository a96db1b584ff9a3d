"""The coordinates that a new network is trained in: what it predicts, at which state and time.

With flow matching and EDM it receives what networks of diffusers do: the time 1,000 w, and the
state and time of EDM's raw network, whose answer has unit variance at every noise level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

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


def schedule_of(
    name: str,
    choices: Collection[str],
    levels: int,
    shift: float = 1.0,
    first_noise: float | None = None,
) -> NoiseSchedule:
    """The noise schedule of a name.

    Args:
        name: of the schedule.
        choices: what there is to choose from.
        levels: length T of the chain.
        shift: of flow matching.
        first_noise: noise scale √(1 − ᾱ_1) of flow matching and EDM; by default that which they
            have for any data.

    Raises:
        NelboError: a name that is no choice.
    """
    check_choice("schedule", name, choices)
    if name == "flow_matching":
        return NoiseSchedule.flow_matching(levels, shift, first_noise=first_noise)
    if name == "variance_exploding" and first_noise is not None:
        sigma = first_noise / math.sqrt(1 - first_noise**2)
        return NoiseSchedule.variance_exploding(levels, sigma)
    return getattr(NoiseSchedule, name)(levels)
