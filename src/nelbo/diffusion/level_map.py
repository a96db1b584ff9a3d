r"""One map between the levels of a chain, what its network is called with, and noise.

A state :math:`x = a x_0 + s \epsilon` with a² + s² = 1 is placed by its level t, by the network's
time, by the noise scale :math:`\sigma = s / a` of Karras et al. 2022, by
:math:`\log \mathrm{SNR} = -2 \log\sigma`, or by the angle :math:`\varphi = \arctan\sigma`, as
:math:`x = \cos\varphi\, x_0 + \sin\varphi\, \epsilon`. A chain fixes these at its levels; between
two of them the network's time is linear in log σ, as in diffusers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.base.arguments import check_count, check_number
from nelbo.base.errors import NelboError
from nelbo.diffusion.noise_level import NoiseLevel

Levels = Float[Tensor, " levels"]

# Where a level has no signal, σ would be infinite: diffusers leaves it this much.
_LEAST_SIGNAL_POWER = 2.0**-24


class LevelMap(ABC):
    """The places of the levels 0..T of a chain, level 0 being the data, and what lies between.

    Attributes:
        alphas_cumprod: the signal power ᾱ_t = a², (T+1,) float64.
        noise_power: 1 − ᾱ_t = s², (T+1,) float64.
        network_times: what the network is called with at each level, (T+1,).
    """

    alphas_cumprod: Levels
    network_times: Int[Tensor, " levels"]

    @property
    @abstractmethod
    def noise_power(self) -> Levels:
        """1 − ᾱ_t."""

    @property
    def num_levels(self) -> int:
        """The number of latents T."""
        return len(self.alphas_cumprod) - 1

    @cached_property
    def signal_scale(self) -> Levels:
        """√ᾱ_t, the weight of x_0 in x_t."""
        return self.alphas_cumprod.sqrt()

    @cached_property
    def noise_scale(self) -> Levels:
        """√(1 − ᾱ_t), the weight of the noise in x_t."""
        return self.noise_power.sqrt()

    @property
    def snr(self) -> Levels:
        """The signal-to-noise ratio ᾱ_t / (1 − ᾱ_t); infinite at level 0."""
        return self.alphas_cumprod / self.noise_power

    @property
    def log_snr(self) -> Levels:
        """log SNR_t."""
        return self.alphas_cumprod.log() - self.noise_power.log()

    @cached_property
    def sigmas(self) -> Levels:
        """σ_t, from 0 at the data; finite, since a level without signal counts as ᾱ = 2⁻²⁴, or as a
        quarter of what the level below it holds where that is no more."""
        signal = self.alphas_cumprod
        below = float(signal[signal > 0][-1])
        least = _LEAST_SIGNAL_POWER if below > _LEAST_SIGNAL_POWER else below / 4
        return (self.noise_power / signal.where(signal > 0, least)).sqrt()

    @cached_property
    def largest_sigma(self) -> float:
        """Where a walk starts: σ_T, or at most 2¹² (ᾱ = 2⁻²⁴) where level T holds no signal.

        So no step is spent on levels of next to none.
        """
        largest = float(self.sigmas[-1])
        faint = _LEAST_SIGNAL_POWER**-0.5
        return largest if self.alphas_cumprod[-1] > 0 else min(largest, faint)

    @cached_property
    def angles(self) -> Levels:
        """φ_t, from 0 at the data to at most π/2."""
        return torch.atan2(self.noise_scale, self.signal_scale)

    @cached_property
    def flow_times(self) -> Levels:
        """w_t = s / (a + s) of flow matching's state (1 − w) x_0 + w ε, from 0 to at most 1."""
        return self.noise_scale / (self.signal_scale + self.noise_scale)

    def noise_level(self, t: int) -> NoiseLevel:
        """Level t of 0..T as a noise level."""
        check_count("t", t, least=0)
        _check_within("t", t, 0, self.num_levels)
        signal, noise = float(self.signal_scale[t]), float(self.noise_scale[t])
        return NoiseLevel(signal, noise, int(self.network_times[t]), t)

    def at_level(self, t: float) -> NoiseLevel:
        """The noise level at t in 1..T; between two levels σ and network time are linear in t.

        So diffusers' schedulers in σ read "linspace" levels. The σ is that of `sigmas`, and the
        network's time is an integer where t is one.
        """
        _check_within("t", t, 1, self.num_levels)
        levels = np.arange(self.num_levels + 1)
        sigma = float(np.interp(t, levels, self.sigmas.numpy()))
        time = float(np.interp(t, levels, self.network_times.numpy()))
        nearest = round(t - 1) + 1
        return NoiseLevel.from_sigma(sigma, int(time) if isinstance(t, int) else time, nearest)

    def at_sigma(self, sigma: float, *, nearest: bool = False) -> NoiseLevel:
        """The noise level of this σ; beyond the chain the network's time is that of its end.

        Args:
            sigma: σ > 0, where those of the levels are `sigmas`.
            nearest: the network's time is that of the nearest level, an integer.
        """
        _check_within("sigma", sigma, 0, math.inf, above=True)
        time, t = self._between(np.log(sigma), self._log_sigmas)
        return NoiseLevel.from_sigma(sigma, int(self.network_times[t]) if nearest else time, t)

    def at_flow_time(self, w: float) -> NoiseLevel:
        """The noise level of (1 − w) x_0 + w ε; unlike that of a σ, it may hold no signal."""
        _check_within("w", w, 0, 1, above=True)
        log_sigma = math.log(w) - (math.log1p(-w) if w < 1 else -math.inf)
        time, t = self._between(log_sigma, self._log_sigmas)
        length = math.hypot(1 - w, w)
        return NoiseLevel((1 - w) / length, w / length, time, t)

    def at_log_snr(self, log_snr: float) -> NoiseLevel:
        """The noise level of this log SNR, as `at_sigma`, but for levels of next to no signal.

        These have their own log SNR; those without any, where it is −∞, are left out.
        """
        check_number("log_snr", log_snr)
        if not math.isfinite(log_snr):
            raise NelboError(f"log_snr must be finite, got {log_snr}")
        time, t = self._between(-0.5 * log_snr, self._half_log_nsr)
        return NoiseLevel.from_sigma(math.exp(-0.5 * log_snr), time, t)

    def level_of(self, network_time: float) -> int:
        """The level of this network time; the one above for a time between two."""
        _check_within("network_time", network_time, -1, int(self.network_times[-1]))
        return int(torch.searchsorted(self.network_times, network_time))

    def levels_of(self, respaced: LevelMap) -> Int[Tensor, " levels"]:
        """Which level of this chain each level of one respaced from it is, (K+1,) int64."""
        found = torch.searchsorted(self.network_times, respaced.network_times)
        return found.clamp(max=self.num_levels)

    def times_within(self, low: float, high: float) -> tuple[int, int] | None:
        """The first and last network time of the levels with σ in (low, high]; None without any."""
        within = self.network_times[(self.sigmas > low) & (self.sigmas <= high)]
        return (int(within[0]), int(within[-1])) if len(within) > 0 else None

    def even_in_angle(self, n: int) -> list[int]:
        """Levels that divide the way from the data to level T evenly in φ, increasing.

        A picture changes by about the same amount from each to the next. Of each of `n` equal
        parts of the way the first level at or above its end is taken, so that the last is T; where
        the chain has fewer levels than that somewhere, there are fewer than `n`.
        """
        check_count("n", n)
        ends = torch.linspace(0.0, float(self.angles[-1]), n + 1, dtype=torch.float64)[1:]
        found = torch.searchsorted(self.angles[1:], ends).clamp(max=self.num_levels - 1) + 1
        return sorted(set(found.tolist()))

    def _between(self, log_sigma: float, levels: np.ndarray) -> tuple[float, int]:
        """The network's time at log σ and the nearest level, given log σ of levels 1, 2, and on."""
        places = np.arange(len(levels))
        place = np.interp(log_sigma, levels, places)
        time = np.interp(place, places, self.network_times[1 : len(levels) + 1].numpy())
        return float(time), round(float(place)) + 1

    @cached_property
    def _log_sigmas(self) -> np.ndarray:
        """log σ of the levels 1..T."""
        return np.log(self.sigmas[1:].numpy())

    @cached_property
    def _half_log_nsr(self) -> np.ndarray:
        """−½ log SNR of the levels from 1 that hold signal."""
        return -0.5 * self.log_snr[1:][self.alphas_cumprod[1:] > 0].numpy()


def _check_within(
    name: str, value: float, least: float, most: float, *, above: bool = False
) -> None:
    """Raise `NelboError` for a number outside [least, most], or with `above` (least, most]."""
    check_number(name, value)
    if not least <= value <= most or (above and value == least):
        ends = f"{'(' if above else '['}{least:g}, {most:g}]"
        raise NelboError(f"{name} must lie in {ends}, got {value}")
