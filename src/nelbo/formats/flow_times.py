r"""The times of flow matching that a scheduler visits, as diffusers spreads and shifts them.

Times w are spread evenly, shifted by k (Esser et al. 2024, eq. 23), stretched so that the last is
at a given place, and may then be spread anew between their ends:

.. math:: w \leftarrow \frac{k w}{1 + (k - 1) w}.
"""

from __future__ import annotations

import math

import numpy as np

from nelbo.formats.config_fields import ConfigFields
from nelbo.samplers.grid import flow_times, noise_scales

# Of `use_dynamic_shifting`: how many tokens a picture has, which a pipeline knows.
IMAGE_TOKENS = "image_tokens"
# How a pipeline spreads the times before their shift.
SPREAD = "time_spread"
# ρ and the beta distribution of diffusers.
_RHO, _BETA = 7.0, (0.6, 0.6)
_DYNAMIC: dict[str, float | str] = {
    "time_shift_type": "exponential",
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
}


def shift_of(config: ConfigFields, plain: str = "shift") -> float:
    """k of the chain: that of a field, or with `use_dynamic_shifting` that of a picture's size.

    log k, or k where `time_shift_type` is "linear", is linear in the number of tokens.

    Raises:
        NelboError: the number of tokens is not known, or a field that is malformed.
    """
    if not config.fields.get("use_dynamic_shifting"):
        return config.number(plain)
    if IMAGE_TOKENS not in config.fields:
        raise config.wrong(
            "use_dynamic_shifting",
            "false, for the shift depends on the number of tokens of a picture, which this "
            "pipeline does not have",
        )
    given = type(config)(config.file, _DYNAMIC | dict(config.fields))
    grown = given.choice("time_shift_type", {"exponential": math.exp, "linear": float})
    low, high = given.number("base_image_seq_len"), given.number("max_image_seq_len")
    first, last = given.number("base_shift"), given.number("max_shift")
    if low == high:
        raise given.wrong("max_image_seq_len", "another number than base_image_seq_len")
    mu = first + (last - first) * (given.number(IMAGE_TOKENS) - low) / (high - low)
    try:
        return grown(mu)
    except OverflowError:
        raise given.wrong("max_shift", f"less, for log k is {mu:.3g}") from None


def walk_times(config: ConfigFields, steps: int, shift: float, last: float) -> list[float]:
    """The times of a walk, decreasing from 1.

    Args:
        config: of a `FlowMatchEulerDiscreteScheduler`.
        steps: how many.
        shift: k.
        last: the last time of a "linspace" before the shift; a "trailing" one ends at 1/steps.

    Raises:
        NelboError: one step, of which a `shift_terminal` leaves the only time undefined.
    """
    trailing = config.fields.get(SPREAD) == "trailing"
    times = np.array(flow_times(1.0, 1 / steps if trailing else last, steps, shift))
    if config.fields.get("shift_terminal"):
        if steps == 1:
            raise config.wrong("shift_terminal", "null for one step, which has no last time")
        times = 1 - (1 - times) * (1 - config.number("shift_terminal")) / (1 - times[-1])
    ends = float(times[0]), float(times[-1])
    if config.fields.get("use_karras_sigmas"):
        return noise_scales(*ends, steps, "karras", _RHO)
    if config.fields.get("use_exponential_sigmas"):
        return noise_scales(*ends, steps, "log_snr", _RHO)
    if config.fields.get("use_beta_sigmas"):
        from scipy.stats import beta  # which takes half a second

        places = beta.ppf(1 - np.linspace(0, 1, steps), *_BETA)
        times = ends[1] + places * (ends[0] - ends[1])
    return times.tolist()
