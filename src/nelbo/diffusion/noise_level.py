"""One level of noise, which need not be a level of the chain."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class NoiseLevel(NamedTuple):
    r"""How much signal and noise a state :math:`x = a x_0 + s \epsilon` holds.

    Attributes:
        signal_scale: a.
        noise_scale: s, with a² + s² = 1.
        network_time: what the network is called with; fractional between two levels of the chain.
        t: the nearest level of the chain.
    """

    signal_scale: float
    noise_scale: float
    network_time: float
    t: int

    @classmethod
    def from_sigma(cls, sigma: float, network_time: float, t: int) -> NoiseLevel:
        """The level of this σ = s / a, the noise scale of Karras et al. 2022."""
        signal_scale = 1 / math.hypot(1.0, sigma)
        return cls(signal_scale, sigma * signal_scale, network_time, t)

    def diffuse(self, x_0: Tensor, noise: Tensor) -> Tensor:
        """x = a x_0 + s noise."""
        return self.signal_scale * x_0 + self.noise_scale * noise

    @property
    def sigma(self) -> float:
        """σ = s / a."""
        return self.noise_scale / self.signal_scale

    @property
    def angle(self) -> float:
        """φ of x = cos φ x_0 + sin φ ε."""
        return math.atan2(self.noise_scale, self.signal_scale)

    @property
    def half_log_snr(self) -> float:
        """λ = log(a / s); infinite where there is no noise."""
        return -math.log(self.sigma) if self.noise_scale > 0 else math.inf
