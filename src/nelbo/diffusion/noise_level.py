"""Levels of noise that need not be levels of the chain: one for a batch, or one an example."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class NoiseLevel(NamedTuple):
    r"""How much signal and noise a state :math:`x = a x_0 + s \epsilon` holds.

    Attributes:
        signal_scale: a.
        noise_scale: s, with a² + s² = 1 but where states have a scale of their own.
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

    def in_chain(self) -> tuple[NoiseLevel, float]:
        """The level with a² + s² = 1, and how many times a state of it a state here is."""
        length = math.hypot(self.signal_scale, self.noise_scale)
        a, s = self.signal_scale / length, self.noise_scale / length
        return self._replace(signal_scale=a, noise_scale=s), length

    @property
    def sigma(self) -> float:
        """σ = s / a; infinite where there is no signal."""
        return self.noise_scale / self.signal_scale if self.signal_scale > 0 else math.inf

    @property
    def angle(self) -> float:
        """φ of x = cos φ x_0 + sin φ ε."""
        return math.atan2(self.noise_scale, self.signal_scale)

    @property
    def half_log_snr(self) -> float:
        """λ = log(a / s); infinite where there is no noise."""
        return -math.log(self.sigma) if self.noise_scale > 0 else math.inf

    def on(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a and s for a state, and the network's time for each example of it."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        time_dtype = torch.int64 if isinstance(self.network_time, int) else dtype
        time = torch.full((len(x),), self.network_time, dtype=time_dtype, device=x.device)
        a, s = (torch.tensor(v, dtype=dtype) for v in (self.signal_scale, self.noise_scale))
        return a, s, time


class NoiseLevels(NamedTuple):
    r"""A noise level for each example, whose scales may have gradients.

    Attributes:
        signal_scale: a, (B,).
        noise_scale: s, (B,).
        network_time: what the network is called with, (B,).
    """

    signal_scale: Float[Tensor, " batch"]
    noise_scale: Float[Tensor, " batch"]
    network_time: Float[Tensor, " batch"]

    def diffuse(self, x_0: Tensor, noise: Tensor) -> Tensor:
        """x = a x_0 + s noise."""
        a, s, _ = self.on(x_0)
        return a * x_0 + s * noise

    def on(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a and s, broadcastable to a state, and the network's time for each example of it."""
        return wide(self.signal_scale, x), wide(self.noise_scale, x), self.network_time


def wide(value: Float[Tensor, " batch"], like: Tensor) -> Tensor:
    """One value an example, shaped to broadcast against a state, (B, 1, 1, 1)."""
    return value.view(-1, *[1] * (like.ndim - 1))
