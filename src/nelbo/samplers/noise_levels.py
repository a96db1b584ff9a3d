r"""Noise levels that need not be levels of the chain.

In terms of the noise scale :math:`\sigma = \sqrt{1 - \bar\alpha} / \sqrt{\bar\alpha}`, between a
largest and a smallest one,

* ``karras``: even in :math:`\sigma^{1/\rho}` (Karras et al. 2022, eq. 5);
* ``log_snr``: even in :math:`\log\sigma`, so in the log-SNR (Lu et al. 2022, section 4.1).

A network that was trained on a chain is told a time between two levels, found by interpolating
:math:`\log\sigma`, as in diffusers.
"""

from __future__ import annotations

import numpy as np

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import unknown
from nelbo.diffusion import NoiseLevel, NoiseSchedule

# Where a level has no signal, σ would be infinite: diffusers leaves it this much.
_LEAST_SIGNAL_POWER = 2.0**-24

# The data: what every walk ends at, and no network is called with.
NO_NOISE = NoiseLevel(1.0, 0.0, -1, 0)

NOISE_LEVELS = ("spaced", "karras", "log_snr")


def noise_scales(largest: float, smallest: float, steps: int, kind: str, rho: float) -> np.ndarray:
    """`steps` values of σ, descending, from `largest` to `smallest`.

    Raises:
        NelboError: an unknown kind, or a ρ that is not positive.
    """
    ramp = np.linspace(0, 1, steps)
    if kind == "karras":
        if not rho > 0:
            raise NelboError(f"rho must be positive, got {rho}")
        ends = largest ** (1 / rho), smallest ** (1 / rho)
        return (ends[0] + ramp * (ends[1] - ends[0])) ** rho
    if kind == "log_snr":
        return largest * (smallest / largest) ** ramp
    raise NelboError(unknown("noise levels", kind, NOISE_LEVELS))


class SigmaChain:
    """The noise scales σ of a chain, and what lies between them.

    Places count levels from 0, as network times do; they are fractional between two levels.

    Args:
        schedule: the chain.

    Attributes:
        sigmas: σ of the levels 1..T, increasing, (T,).
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        signal = schedule.alphas_cumprod[1:].clamp(min=_LEAST_SIGNAL_POWER)
        self.sigmas: np.ndarray = (schedule.noise_power[1:] / signal).sqrt().numpy()
        self._times = schedule.network_times[1:].numpy()
        self._places = np.arange(len(self.sigmas))

    def sigmas_at(self, places: np.ndarray) -> np.ndarray:
        """σ at these places, linear in between."""
        return np.interp(places, self._places, self.sigmas)

    def places_of(self, sigmas: np.ndarray) -> np.ndarray:
        """Where these σ lie, linear in log σ; the ends where they lie outside of the chain."""
        return np.interp(np.log(sigmas), np.log(self.sigmas), self._places)

    def levels(self, sigmas: np.ndarray, places: np.ndarray) -> list[NoiseLevel]:
        """The noise levels at these σ, for a network that is told the places."""
        times = np.interp(places, self._places, self._times)
        nearest = places.round().astype(int) + 1
        return [
            NoiseLevel.from_sigma(float(sigma), float(time), int(t))
            for sigma, time, t in zip(sigmas, times, nearest, strict=True)
        ]

    def rounded_levels(self, sigmas: np.ndarray, places: np.ndarray) -> list[NoiseLevel]:
        """The noise levels at these σ, for a network that is told the nearest level of each."""
        return [
            NoiseLevel.from_sigma(float(sigma), int(self._times[place]), place + 1)
            for sigma, place in zip(sigmas, places.round().astype(int).tolist(), strict=True)
        ]
