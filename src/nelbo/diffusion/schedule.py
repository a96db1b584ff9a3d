r"""Noise schedules: how much signal is left at each level of the chain.

With :math:`\alpha_t = 1 - \beta_t` and :math:`\bar\alpha_t = \prod_{s \le t} \alpha_s` the encoder
of a diffusion model is

.. math::
    q(x_t|x_{t-1}) = N(\sqrt{\alpha_t}\, x_{t-1},\; \beta_t I), \qquad
    q(x_t|x_0) = N(\sqrt{\bar\alpha_t}\, x_0,\; (1 - \bar\alpha_t) I), \\
    q(x_{t-1}|x_t, x_0) = N\!\left(
        \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t} x_0 +
        \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t} x_t,\;
        \tilde\beta_t I\right), \qquad
    \tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t

(Ho et al. 2020, eqs. 2, 4, 6, 7). Everything is float64 and indexed by the level t = 0..T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nelbo.base.arguments import check_count, check_number, check_numbers, described
from nelbo.base.bisection import bisection
from nelbo.base.errors import NelboError
from nelbo.diffusion.level_map import LevelMap, Levels


@dataclass(frozen=True, eq=False)
class NoiseSchedule(LevelMap):
    """The noise levels 0..T of a chain and its steps; build one with the class methods.

    What lies at a level or between two is in `LevelMap`.

    Attributes:
        alphas_cumprod: the signal power ᾱ_t, (T+1,) float64 from ᾱ_0 = 1, decreasing.
        network_times: what the network is called with at each level, (T+1,) int64: t − 1 for a
            chain of its own, the parent's value for a respaced one.
        betas: the noise added by each step, (T+1,) float64; β_0 = 0.
        config: the fields of a diffusers scheduler config that rebuild the chain, or None
            where only its betas do; its class is that of the prediction.
    """

    alphas_cumprod: Levels
    network_times: Int[Tensor, " levels"]
    betas: Levels
    config: dict[str, object] | None = None

    @classmethod
    def linear(
        cls, T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> NoiseSchedule:
        """Linearly spaced β (Ho et al. 2020, section 4)."""
        check_numbers(beta_start=beta_start, beta_end=beta_end)
        betas = torch.linspace(beta_start, beta_end, _checked(T), dtype=torch.float64)
        return cls._named("linear", betas, beta_start=beta_start, beta_end=beta_end)

    @classmethod
    def scaled_linear(
        cls, T: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
    ) -> NoiseSchedule:
        """Linearly spaced √β (Rombach et al. 2022; the schedule of Stable Diffusion)."""
        check_numbers(beta_start=beta_start, beta_end=beta_end)
        # Of a negative number torch's root is nan, which `from_betas` refuses by its level.
        first, last = torch.tensor([beta_start, beta_end], dtype=torch.float64).sqrt().tolist()
        betas = torch.linspace(first, last, _checked(T), dtype=torch.float64).square()
        return cls._named("scaled_linear", betas, beta_start=beta_start, beta_end=beta_end)

    @classmethod
    def cosine(cls, T: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
        """ᾱ_t ∝ cos²(π/2 · (t/T + offset) / (1 + offset)) (Nichol & Dhariwal 2021, eq. 17)."""
        check_numbers(offset=offset, max_beta=max_beta)
        u = torch.arange(_checked(T) + 1, dtype=torch.float64) / T
        signal = torch.cos((u + offset) / (1 + offset) * (math.pi / 2)).square()
        betas = (1 - signal[1:] / signal[:-1]).clamp(max=max_beta)
        if (offset, max_beta) == (0.008, 0.999):
            return cls._named("squaredcos_cap_v2", betas)
        return cls.from_betas(betas)

    @classmethod
    def sigmoid(
        cls, T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> NoiseSchedule:
        """β on a sigmoid from −6 to 6 between its two ends (Xu et al. 2022, GeoDiff)."""
        check_numbers(beta_start=beta_start, beta_end=beta_end)
        ramp = torch.linspace(-6.0, 6.0, _checked(T), dtype=torch.float64).sigmoid()
        betas = ramp * (beta_end - beta_start) + beta_start
        return cls._named("sigmoid", betas, beta_start=beta_start, beta_end=beta_end)

    @classmethod
    def geometric(
        cls, T: int = 1000, first_noise: float = 0.01, last_signal: float = 3e-4
    ) -> NoiseSchedule:
        """Noise power 1 − ᾱ_t on a geometric series from level 1 to level T.

        The ratio of neighbouring noise scales is constant, as in Song & Ermon 2019, here with
        preserved variance.

        Args:
            T: number of levels.
            first_noise: noise scale √(1 − ᾱ_1).
            last_signal: signal power ᾱ_T that is left.

        Raises:
            NelboError: a noise scale or signal power outside (0, 1), or so little noise that
                float64 has none at level 1.
        """
        check_numbers(first_noise=first_noise, last_signal=last_signal)
        if not (0 < first_noise < 1 and 0 < last_signal < 1 - first_noise**2):
            raise NelboError(
                "a geometric schedule goes from a small noise scale to a small signal power, both "
                f"in (0, 1); got first_noise={first_noise}, last_signal={last_signal}"
            )
        ends = 2 * math.log(first_noise), math.log1p(-last_signal)
        log_noise = torch.linspace(*ends, _checked(T), dtype=torch.float64)
        return cls.from_levels(-torch.expm1(log_noise))

    @classmethod
    def flow_matching(
        cls, T: int = 1000, shift: float = 1.0, *, first_noise: float | None = None
    ) -> NoiseSchedule:
        r"""The levels of flow matching: x = (1 − s) x_0 + s ε at s = 1/T, ..., 1.

        .. math::
            s \leftarrow \frac{k s}{1 + (k - 1) s}, \qquad
            \bar\alpha = \frac{(1 - s)^2}{(1 - s)^2 + s^2}

        with the shift k of Stable Diffusion 3 (Esser et al. 2024, eq. 23). The last level holds no
        signal.

        Args:
            T: number of levels.
            shift: k; above 1 more of the levels are noisy.
            first_noise: noise scale √(1 − ᾱ_1); by default that of s = 1/T, shifted. Times before
                the shift are even between it and 1.

        Raises:
            NelboError: a shift that is not positive, a noise scale outside (0, 1), or no levels.
        """
        check_number("shift", shift)
        if not 0 < shift < math.inf:
            raise NelboError(f"the shift of flow matching must be positive, got {shift}")
        first = 1 / _checked(T)
        if first_noise is not None:
            check_number("first_noise", first_noise)
            if not 0 < first_noise < 1:
                raise NelboError(f"first_noise must lie in (0, 1), got {first_noise}")
            sigma = first_noise / math.sqrt(1 - first_noise**2)
            first = sigma / (sigma + shift)
        s = torch.linspace(first, 1, T, dtype=torch.float64)
        s = shift * s / (1 + (shift - 1) * s)
        plain = cls.from_levels((1 - s).square() / ((1 - s).square() + s.square()))
        return replace(plain, config={"shift": shift})

    @classmethod
    def variance_exploding(
        cls, T: int = 1000, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
    ) -> NoiseSchedule:
        r"""The levels of x = x_0 + σ ε with σ^{1/ρ} evenly spaced (Karras et al. 2022, eq. 5).

        .. math::
            \sigma_t = \left(\sigma_{min}^{1/\rho} + \frac{t - 1}{T - 1}
                (\sigma_{max}^{1/\rho} - \sigma_{min}^{1/\rho})\right)^\rho, \qquad
            \bar\alpha_t = \frac{1}{1 + \sigma_t^2}

        Args:
            T: number of levels.
            sigma_min: σ of level 1.
            sigma_max: σ of level T.
            rho: ρ; `math.inf`, its limit, spaces log σ and so the log SNR evenly.

        Raises:
            NelboError: no levels, ends that are not 0 < sigma_min < sigma_max, or a ρ that is not
                positive.
        """
        check_numbers(sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
        if not 0 < sigma_min < sigma_max < math.inf or not rho > 0:
            raise NelboError(
                "the noise goes from a small σ to a large one, 0 < sigma_min < sigma_max, with "
                f"rho > 0; got sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}"
            )
        if rho == math.inf:
            ends = math.log(sigma_min), math.log(sigma_max)
            sigma = torch.linspace(*ends, _checked(T), dtype=torch.float64).exp()
        else:
            ends = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
            sigma = torch.linspace(*ends, _checked(T), dtype=torch.float64) ** rho
        config: dict[str, object] = {"sigma_min": sigma_min, "sigma_max": sigma_max, "rho": rho}
        return replace(cls.from_levels(1 / (1 + sigma.square())), config=config)

    @classmethod
    def mixed(
        cls,
        T: int = 1000,
        first_noise: float = 0.01,
        share: float = 0.5,
        last_signal: float = 3e-4,
    ) -> NoiseSchedule:
        r"""A share of the levels spread as those of the cosine schedule, the others geometrically.

        With :math:`u_g` and :math:`u_c` the place of a noise level among those of the two, from 0
        at level 1 to 1 at level T,

        .. math::
            u_g = \frac{\log(1 - \bar\alpha) - \log(1 - \bar\alpha_1)}
                {\log(1 - \bar\alpha_T) - \log(1 - \bar\alpha_1)}, \qquad
            u_c \propto \arctan e^{-\lambda/2} - \arctan e^{-\lambda_1/2},

        with λ = log SNR, level t is where :math:`(1-s) u_g + s u_c = (t-1)/(T-1)`, s the share.
        A geometric schedule has most of its levels where single pixel levels are decided, a cosine
        one where the content of an image is.

        Args:
            T: number of levels.
            first_noise: noise scale √(1 − ᾱ_1).
            share: s, from 0 to 1.
            last_signal: signal power ᾱ_T that is left.

        Raises:
            NelboError: a share outside [0, 1], or a noise scale or signal power outside (0, 1).
        """
        check_number("share", share)
        if not 0 <= share <= 1:
            raise NelboError(f"the share of cosine levels must lie in [0, 1], got {share}")
        ends = cls.geometric(2, first_noise, last_signal).log_snr[1:]
        places = torch.linspace(0, 1, _checked(T), dtype=torch.float64)

        def place(log_snr: Levels) -> Levels:
            log_noise = torch.nn.functional.logsigmoid(-torch.cat([ends, log_snr]))
            angle = torch.atan(torch.exp(-torch.cat([ends, log_snr]) / 2))
            geometric, cosine = ((u[2:] - u[0]) / (u[1] - u[0]) for u in (log_noise, angle))
            return (1 - share) * geometric + share * cosine

        first, last = (end.expand(T) for end in ends)
        log_snr = bisection(lambda middle: place(middle) >= places, first, last)
        log_snr[-1] = ends[1]
        log_snr[0] = ends[0]  # last, as it is the only one where T is 1
        return cls.from_alphas_cumprod(torch.sigmoid(log_snr))

    @classmethod
    def from_betas(cls, betas: Tensor | Sequence[float]) -> NoiseSchedule:
        """The chain with these β_1..β_T, (T,).

        Raises:
            NelboError: fewer than one, or a β outside (0, 1); only the last may be 1.
        """
        given = _array("betas", betas, "numbers", torch.float64)
        if given.ndim != 1 or len(given) == 0:
            raise NelboError(f"betas must be a list of T numbers, got shape {tuple(given.shape)}")
        good = (given > 0) & (given < 1)
        good[-1] |= given[-1] == 1
        if not good.all():
            t = int((~good).nonzero()[0, 0])
            raise NelboError(f"beta at level {t + 1} is {given[t].item()}, expected 0 < beta < 1")
        signal = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - given, 0)])
        lost = (signal.diff() >= 0) & (signal[1:] > 0)
        if lost.any():
            t = int(lost.nonzero()[0, 0])
            raise NelboError(
                f"beta at level {t + 1} is {given[t].item()}, which leaves ᾱ as it is in float64: "
                "add more noise there, or leave the level out"
            )
        return cls(signal, torch.arange(-1, len(given)), torch.nn.functional.pad(given, (1, 0)))

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor | Sequence[float]) -> NoiseSchedule:
        """The chain with these ᾱ: either ᾱ_0 = 1, ..., ᾱ_T or ᾱ_1, ..., ᾱ_T.

        A first value of exactly 1 is ᾱ_0. Where it might be an ᾱ_1 that is rounded to 1, use
        `from_levels`, which refuses it.

        Raises:
            NelboError: values outside [0, 1] or not decreasing.
        """
        signal = _array("alphas_cumprod", alphas_cumprod, "numbers", torch.float64)
        if signal.ndim != 1 or len(signal) == 0:
            raise NelboError(f"alphas_cumprod must be a list, got shape {tuple(signal.shape)}")
        return cls.from_levels(signal[1:] if signal[0] == 1 else signal)

    @classmethod
    def from_levels(cls, alphas_cumprod: Tensor | Sequence[float]) -> NoiseSchedule:
        """The chain of T levels with these ᾱ_1, ..., ᾱ_T, (T,).

        Raises:
            NelboError: no values, values outside [0, 1), or not decreasing.
        """
        levels = _array("alphas_cumprod", alphas_cumprod, "numbers", torch.float64)
        if levels.ndim != 1:
            raise NelboError(f"alphas_cumprod must be a list, got shape {tuple(levels.shape)}")
        signal = torch.cat([torch.ones(1, dtype=torch.float64), levels])
        return cls._from_signal(signal, torch.arange(-1, len(levels)))

    def respace(self, levels: Sequence[int] | Int[Tensor, " K"]) -> NoiseSchedule:
        """The chain through these levels only, increasing; the last becomes its x_T.

        It has its own β and β̃, and the network is still called with the parent's time.

        Raises:
            NelboError: no levels, levels outside 1..T, or not increasing.
        """
        given = _array("levels", levels, "whole levels")
        if given.ndim != 1:
            raise NelboError(f"levels must be a list of whole levels, got {described(levels)}")
        chosen = given.long()
        T = self.num_levels
        if len(chosen) == 0:
            raise NelboError(f"respace needs at least one of the levels 1..{T}, got none")
        if chosen.min() < 1 or chosen.max() > T:
            raise NelboError(f"respace takes levels in 1..{T}, got {chosen.tolist()}")
        if not (chosen.diff() > 0).all() or (chosen != given).any():
            raise NelboError(f"respace takes increasing whole levels, got {given.tolist()}")
        kept = torch.cat([torch.zeros(1, dtype=torch.int64), chosen])
        return self._from_signal(self.alphas_cumprod[kept], self.network_times[kept])

    def with_zero_terminal_snr(self) -> NoiseSchedule:
        r"""The chain shifted and scaled so that x_T holds no signal (Lin et al. 2024, algorithm 1).

        .. math::
            \sqrt{\bar\alpha_t} \leftarrow (\sqrt{\bar\alpha_t} - \sqrt{\bar\alpha_T})
            \frac{\sqrt{\bar\alpha_1}}{\sqrt{\bar\alpha_1} - \sqrt{\bar\alpha_T}}, \qquad t \ge 1

        Samples may then be as bright or dark as the data, which a little signal left in x_T
        prevents. It needs `prediction="v_prediction"` or `"sample"`.

        Raises:
            NelboError: a chain of one level.
        """
        if self.alphas_cumprod[-1] == 0:
            return self
        if self.num_levels == 1:
            raise NelboError("a chain of one level has nothing left without its signal")
        first, last = self.signal_scale[1], self.signal_scale[-1]
        signal = ((self.signal_scale - last) * (first / (first - last))).square()
        signal[0], signal[1] = 1.0, self.alphas_cumprod[1]
        config = None if self.config is None else {**self.config, "rescale_betas_zero_snr": True}
        return replace(self._from_signal(signal, self.network_times), config=config)

    @property
    def alphas(self) -> Levels:
        """α_t = 1 − β_t."""
        return 1 - self.betas

    @cached_property
    def noise_power(self) -> Levels:
        """1 − ᾱ_t, without cancellation near ᾱ = 1: −expm1(Σ log α_s)."""
        return torch.expm1(torch.log1p(-self.betas).cumsum(0)).abs()

    @cached_property
    def posterior_variance(self) -> Levels:
        """β̃_t of q(x_{t-1}|x_t, x_0); zero at level 1 (and 0)."""
        previous = torch.nn.functional.pad(self.noise_power[:-1], (1, 0))
        variance = previous / self.noise_power * self.betas
        variance[0] = 0.0
        return variance

    @cached_property
    def posterior_data_weight(self) -> Levels:
        """The weight of x_0 in the mean of q(x_{t-1}|x_t, x_0)."""
        previous = torch.nn.functional.pad(self.alphas_cumprod[:-1], (1, 0), value=1.0)
        weight = previous.sqrt() * self.betas / self.noise_power
        weight[0] = 1.0
        return weight

    @cached_property
    def posterior_latent_weight(self) -> Levels:
        """The weight of x_t in the mean of q(x_{t-1}|x_t, x_0)."""
        previous = torch.nn.functional.pad(self.noise_power[:-1], (1, 0))
        weight = self.alphas.sqrt() * previous / self.noise_power
        weight[0] = 0.0
        return weight

    @classmethod
    def _named(cls, name: str, betas: Tensor, **parameters: float) -> NoiseSchedule:
        plain = cls.from_betas(betas)
        config = {"beta_schedule": name, **parameters}
        return cls(plain.alphas_cumprod, plain.network_times, plain.betas, config)

    @classmethod
    def _from_signal(cls, signal: Levels, network_times: Tensor) -> NoiseSchedule:
        if len(signal) > 1 and signal[1] == 1:
            raise NelboError(
                "the signal power ᾱ of level 1 is 1 in float64, so that the level holds no noise: "
                "begin with a noise scale √(1 − ᾱ_1) of at least 1.1e-8"
            )
        # Not "any is not": a value that is nan is neither.
        falls = (signal >= 0).all() and (signal.diff() < 0).all()
        if len(signal) < 2 or not falls:
            raise NelboError(
                "alphas_cumprod must start at 1 and decrease towards 0 without repeating, got "
                f"{signal[:4].tolist()} ... {signal[-1].item()}"
            )
        betas = torch.nn.functional.pad(1 - signal[1:] / signal[:-1], (1, 0))
        return cls(signal, network_times, betas)


def _array(name: str, given: Any, expected: str, dtype: torch.dtype | None = None) -> Tensor:
    """What is given, on the CPU."""
    try:
        return torch.as_tensor(given, dtype=dtype).detach().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        message = f"{name} must be a list of {expected}, got {described(given)}"
        raise NelboError(message) from error


def _checked(T: int) -> int:
    check_count("the number of levels T", T)
    return T
