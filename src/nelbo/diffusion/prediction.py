r"""What the network predicts, and how to read it.

At a given :math:`x_t = a x_0 + s \epsilon` with :math:`a = \sqrt{\bar\alpha_t}` and
:math:`s = \sqrt{1 - \bar\alpha_t}`, the data, the noise and
:math:`v = a\epsilon - s x_0` (Salimans & Ho 2022, appendix D) are linear in one another:

.. math::
    x_0 = (x_t - s\epsilon) / a = a x_t - s v, \qquad
    \epsilon = (x_t - a x_0) / s = s x_t + a v.

A squared error of one is therefore one of the others, times a function of
:math:`\lambda = \log(a^2/s^2)`, with :math:`a^2 = \mathrm{sigmoid}(\lambda)` and
:math:`s^2 = \mathrm{sigmoid}(-\lambda)`.

A new prediction is a subclass of `Parameterization` and an entry of `PARAMETERIZATIONS`. One whose
network has coordinates of its own, a state :math:`\alpha x_0 + \sigma\epsilon` of another scale or
another time, maps those of the chain to them in `network_input`, as those of flow matching and EDM
do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from nelbo.diffusion.thresholding import Threshold


class Parameterization(ABC):
    """How a network's output stands to x_0 and ε at a state x_t with scales a and s.

    Attributes:
        name: what it is called in options and descriptions.
        needs_signal: whether x_0 or the network's input is undetermined where a = 0.
    """

    name: ClassVar[str]
    needs_signal: ClassVar[bool] = False

    def __str__(self) -> str:
        return self.name

    def network_input(
        self, x_t: Tensor, time: Tensor, a: Tensor, s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The state and the time that the network is called with; here those of the chain."""
        return x_t, time

    @abstractmethod
    def x_0(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The data that an output stands for."""

    @abstractmethod
    def epsilon(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The noise that an output stands for."""

    @abstractmethod
    def target(self, x_0: Tensor, epsilon: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The output that stands for this data and noise."""

    @abstractmethod
    def data_error(self, log_snr: Tensor) -> Tensor:
        """The squared error of x_0 for a squared error of one of the output, at λ."""

    @abstractmethod
    def noise_error(self, log_snr: Tensor) -> Tensor:
        """The squared error of ε for a squared error of one of the output, at λ."""


class Epsilon(Parameterization):
    """The noise ε (Ho et al. 2020)."""

    name = "epsilon"
    needs_signal = True

    def x_0(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The data of which this is the noise."""
        return (x_t - s * output) / a

    def epsilon(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The output itself."""
        return output

    def target(self, x_0: Tensor, epsilon: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The noise itself."""
        return epsilon

    def data_error(self, log_snr: Tensor) -> Tensor:
        """s²/a²."""
        return torch.exp(-log_snr)

    def noise_error(self, log_snr: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(log_snr)


class _Sample(Parameterization):
    """The data x_0."""

    name = "sample"

    def x_0(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return output

    def epsilon(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return (x_t - a * output) / s

    def target(self, x_0: Tensor, epsilon: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return x_0

    def data_error(self, log_snr: Tensor) -> Tensor:
        return torch.ones_like(log_snr)

    def noise_error(self, log_snr: Tensor) -> Tensor:
        return torch.exp(log_snr)


class _V(Parameterization):
    """v = a·ε − s·x_0 (Salimans & Ho 2022)."""

    name = "v_prediction"

    def x_0(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return a * x_t - s * output

    def epsilon(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return s * x_t + a * output

    def target(self, x_0: Tensor, epsilon: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return a * epsilon - s * x_0

    def data_error(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr)

    def noise_error(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(log_snr)


def _each(scale: Tensor, x_t: Tensor) -> Tensor:
    """One value for each example of a state, of a scale that broadcasts to it, (B,)."""
    return scale.flatten().expand(len(x_t)).to(x_t.device)


class Velocity(Parameterization):
    """ε − x_0 at the state (1 − w) x_0 + w ε and time w (Lipman et al. 2023; Liu et al. 2023).

    That is the chain's state divided by a + s, with w = s / (a + s).

    Args:
        time_scale: what the network is called with is this times w; diffusers' networks count
            from 0 to 1,000.
    """

    name = "velocity"

    def __init__(self, time_scale: float = 1.0) -> None:
        self.time_scale = time_scale

    def __str__(self) -> str:
        return self.name if self.time_scale == 1 else f"{self.name}, time 0..{self.time_scale:g}"

    def network_input(
        self, x_t: Tensor, time: Tensor, a: Tensor, s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """That state, and w times the scale of time."""
        return (x_t / (a + s)).to(x_t.dtype), _each(self.time_scale * s / (a + s), x_t)

    def x_0(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The data at the other end of the straight way."""
        return (x_t - s * output) / (a + s)

    def epsilon(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The noise that the way leads to."""
        return (x_t + a * output) / (a + s)

    def target(self, x_0: Tensor, epsilon: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """ε − x_0."""
        return epsilon - x_0

    def data_error(self, log_snr: Tensor) -> Tensor:
        """(s / (a + s))²."""
        return torch.sigmoid(-log_snr / 2).square()

    def noise_error(self, log_snr: Tensor) -> Tensor:
        """(a / (a + s))²."""
        return torch.sigmoid(log_snr / 2).square()


class _Denoiser(_Sample):
    """The data x_0 at the variance-exploding state x_0 + σ ε and time σ (Karras et al. 2022).

    That is the chain's state divided by a, with σ = s / a.
    """

    name = "denoiser"
    needs_signal = True

    def network_input(
        self, x_t: Tensor, time: Tensor, a: Tensor, s: Tensor
    ) -> tuple[Tensor, Tensor]:
        return (x_t / a).to(x_t.dtype), _each(s / a, x_t)


class RawDenoiser(Parameterization):
    r"""What EDM's raw network F answers, of which its denoiser is made (Karras et al. 2022, eq. 7).

    At the variance-exploding state :math:`\bar x = x_0 + \sigma\epsilon` it is

    .. math::
        F(c_{in} \bar x; c_{noise}) = \frac{x_0 - c_{skip} \bar x}{c_{out}}
            = \frac{\sigma x_0 - \sigma_d^2 \epsilon}{\sigma_d \sqrt{\sigma^2 + \sigma_d^2}}

    with the coefficients of `nelbo.preconditioned`: of unit variance where x_0 has σ_d², at every
    noise level. With σ_d = 1 it is −v.

    Args:
        sigma_data: σ_d, the standard deviation of the data.
    """

    name = "denoiser"
    needs_signal = True

    def __init__(self, sigma_data: float) -> None:
        self.sigma_data = sigma_data

    def __str__(self) -> str:
        return f"{self.name} of a raw network, sigma_data {self.sigma_data:g}"

    def network_input(
        self, x_t: Tensor, time: Tensor, a: Tensor, s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """c_in x̄ and c_noise = log(σ) / 4."""
        return (x_t / self._total(a, s)).to(x_t.dtype), _each((s / a).log() / 4, x_t)

    def x_0(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """c_skip x̄ + c_out F."""
        total, data = self._total(a, s), self.sigma_data
        return (data / total).square() * a * x_t + s * data / total * output

    def epsilon(self, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The noise that leaves this data."""
        total, data = self._total(a, s), self.sigma_data
        return s / total.square() * x_t - a * data / total * output

    def target(self, x_0: Tensor, epsilon: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """F of this data and noise."""
        return (s * x_0 - self.sigma_data**2 * a * epsilon) / (self.sigma_data * self._total(a, s))

    def data_error(self, log_snr: Tensor) -> Tensor:
        """c_out²."""
        return self.sigma_data**2 / (1 + self.sigma_data**2 * log_snr.exp())

    def noise_error(self, log_snr: Tensor) -> Tensor:
        """c_out² / σ²."""
        return self.sigma_data**2 / (torch.exp(-log_snr) + self.sigma_data**2)

    def _total(self, a: Tensor, s: Tensor) -> Tensor:
        """a √(σ² + σ_d²)."""
        return (s.square() + (self.sigma_data * a).square()).sqrt()


PARAMETERIZATIONS: dict[str, Parameterization] = {
    kind.name: kind for kind in (Epsilon(), _Sample(), _V(), Velocity(), _Denoiser())
}


@dataclass(frozen=True)
class Prediction:
    """What the model predicts at x_t, read as x_0, ε or v, and the variance of p_step.

    Attributes:
        parameterization: which of them the network gave.
        output: the network's output for it, (B, C, H, W).
        x_t: the state it was given.
        signal_scale: a at the level, broadcastable to x_t.
        noise_scale: s at the level, broadcastable to x_t.
        threshold: what keeps x_0 in range, or None; ε and v stay the network's own.
        variance_output: the network's output for a learned variance, (B, C, H, W), if it has one.
        log_variance: log Σ_t of p(x_{t-1}|x_t), broadcastable to x_t; nan off the chain's levels.
    """

    parameterization: Parameterization
    output: Tensor
    x_t: Tensor
    signal_scale: Tensor
    noise_scale: Tensor
    threshold: Threshold | None
    variance_output: Tensor | None
    log_variance: Tensor

    @cached_property
    def x_0(self) -> Tensor:
        """The predicted data, within the model's threshold; gradients pass the clip."""
        x_0 = self._read(self.parameterization.x_0)
        if self.threshold is None:
            return x_0
        clipped = self.threshold(x_0.detach())
        return clipped.detach() + (x_0 - x_0.detach()) if x_0.requires_grad else clipped

    def differentiable_x_0(self) -> Tensor:
        """`x_0` with the derivative of the threshold, zero where it clips, for a divergence.

        Training needs gradients that pass the clip; a change of variables needs the true ones.
        """
        x_0 = self._read(self.parameterization.x_0)
        return x_0 if self.threshold is None else self.threshold(x_0)

    @cached_property
    def epsilon(self) -> Tensor:
        """The predicted noise."""
        return self._read(self.parameterization.epsilon)

    @cached_property
    def v(self) -> Tensor:
        """The predicted v = a·ε − s·x_0, before any clipping."""
        x_0 = self._read(self.parameterization.x_0)
        return self.signal_scale * self.epsilon - self.noise_scale * x_0

    @property
    def variance(self) -> Tensor:
        """Σ_t of p(x_{t-1}|x_t)."""
        return self.log_variance.exp()

    @property
    def stddev(self) -> Tensor:
        """√Σ_t."""
        return (0.5 * self.log_variance).exp()

    def target(self, x_0: Tensor, epsilon: Tensor) -> Tensor:
        """What the network should have given for this data and noise."""
        return self.parameterization.target(x_0, epsilon, self.signal_scale, self.noise_scale)

    def detach_mean(self) -> Prediction:
        """The same with no gradient through the prediction, only through the variance."""
        return replace(self, output=self.output.detach())

    def __getitem__(self, index: Tensor) -> Prediction:
        """The predictions for some examples of a batch with one level each."""
        names = ("output", "x_t", "signal_scale", "noise_scale", "log_variance")
        some = {name: getattr(self, name)[index] for name in names}
        spare = self.variance_output
        return replace(self, **some, variance_output=None if spare is None else spare[index])

    def _read(self, read: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        return read(self.output, self.x_t, self.signal_scale, self.noise_scale)
