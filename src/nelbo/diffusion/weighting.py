r"""How much each level counts in training: the bound, weighted by the log signal-to-noise ratio.

With :math:`\lambda_t = \log \mathrm{SNR}_t`, each score matching term of the bound is a squared
error of :math:`\hat\epsilon` times a step in :math:`\lambda`. The weighted bound is

.. math::
    L_w = \frac12 \int w(\lambda)\, E\|\epsilon - \hat\epsilon\|^2\, d\lambda
    \quad\text{or, on a chain,}\quad
    L_w = \sum_{t \ge 1} w(\lambda_t)\, \tfrac12 d_t\, E\|x_0 - \hat x_0\|^2, \qquad
    d_t = \mathrm{SNR}_{t-1} - \mathrm{SNR}_t,\; d_1 = 1/\Sigma_1,

where w = 1 is the bound itself with the variance `fixed_small`. A weighting that only grows with
the noise is still a bound: summed by parts,

.. math::
    L_w = \sum_t (w(\lambda_t) - w(\lambda_{t-1}))
        \sum_{s \ge t} \tfrac12 d_s E\|x_0 - \hat x_0\|^2, \qquad w(\lambda_0) = 0,

an average of the negative bounds of the data with the noise of each level t − 1 added (Kingma & Gao
2023, "Understanding diffusion objectives as the ELBO with simple data augmentation", section 4).

Some weightings were written for the squared error at a level, every level equally likely,
:math:`\frac1T \sum_t w(\lambda_t) E\|\epsilon - \hat\epsilon\|^2`. What they amount to in the bound
depends on the chain: :math:`w(\lambda)\, p(\lambda)`, with p the density of its levels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import ClassVar

import torch

from nelbo.base.errors import NelboError
from nelbo.diffusion.coefficients import Coefficient
from nelbo.diffusion.prediction import PARAMETERIZATIONS, Parameterization
from nelbo.diffusion.schedule import Levels, NoiseSchedule

# Beyond this log SNR nothing is left of the density of noise levels that `EDM` draws from.
_FAR = 100.0


@dataclass(frozen=True)
class Weighting(ABC):
    """A weight for each log SNR.

    Attributes:
        of_bound: whether it weights the terms of the bound, rather than ‖ε − ε̂‖² with every level
            equally likely.

    Raises:
        NelboError: a parameter that is not positive, where it has to be.
    """

    of_bound: ClassVar[bool] = True
    _positive: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or (field.name in self._positive and value <= 0):
                kind = "positive" if field.name in self._positive else "finite"
                raise NelboError(
                    f"{field.name} of {type(self).__name__} must be {kind}, got {value}"
                )

    @abstractmethod
    def __call__(self, log_snr: Levels) -> Levels:
        """w(λ)."""


@dataclass(frozen=True)
class MinSNR(Weighting):
    """w = min(SNR, γ) / SNR on ‖ε − ε̂‖² (Hang et al. 2023, section 3.4).

    Args:
        gamma: the SNR above which the weight falls.
    """

    gamma: float = 5.0
    of_bound = False
    _positive = ("gamma",)

    def __call__(self, log_snr: Levels) -> Levels:
        """min(1, γ/SNR)."""
        return (math.log(self.gamma) - log_snr).clamp(max=0).exp()


@dataclass(frozen=True)
class P2(Weighting):
    """w = 1 / (k + SNR)^γ on ‖ε − ε̂‖² (Choi et al. 2022, eq. 8).

    Args:
        gamma: how much less low noise counts.
        k: the SNR where that begins.
    """

    gamma: float = 1.0
    k: float = 1.0
    of_bound = False
    _positive = ("k",)

    def __call__(self, log_snr: Levels) -> Levels:
        """(k + SNR)^(−γ)."""
        return (self.k + log_snr.exp()) ** -self.gamma


@dataclass(frozen=True)
class Sigmoid(Weighting):
    """w = sigmoid(b − λ) on the bound (Kingma & Gao 2023).

    It grows with the noise, so that the loss is a bound, of data with noise.

    Args:
        bias: b, the log SNR at which the weight is one half.
    """

    bias: float = 2.0

    def __call__(self, log_snr: Levels) -> Levels:
        """sigmoid(b − λ)."""
        return torch.sigmoid(self.bias - log_snr)


@dataclass(frozen=True)
class EDM(Weighting):
    r"""The loss of EDM as a weighting of the bound (Karras et al. 2022, table 1).

    EDM takes :math:`\ln\sigma \sim N(m, s^2)` and the loss
    :math:`\frac{\sigma^2 + \sigma_d^2}{(\sigma\sigma_d)^2}\|x_0 - \hat x_0\|^2`. With
    :math:`\lambda = -2\ln\sigma` half of its expectation is the weighted bound with
    :math:`w(\lambda) = N(\lambda; -2m, 4s^2)\,(e^{-\lambda} + \sigma_d^2)/\sigma_d^2`
    (Kingma & Gao 2023, appendix D).

    Args:
        mean: m of ln σ.
        std: s of ln σ.
        data_std: σ_d.
    """

    mean: float = -1.2
    std: float = 1.2
    data_std: float = 0.5
    _positive = ("std", "data_std")

    def __call__(self, log_snr: Levels) -> Levels:
        """The density of λ times (σ² + σ_d²)/σ_d²."""
        log_snr = log_snr.clamp(-_FAR, _FAR)
        distance = (log_snr + 2 * self.mean) / (2 * self.std)
        density = torch.exp(-0.5 * distance.square()) / (2 * self.std * math.sqrt(2 * math.pi))
        return density * (torch.exp(-log_snr) / self.data_std**2 + 1)


WEIGHTINGS: dict[str, Weighting] = {
    "min_snr": MinSNR(),
    "p2": P2(),
    "sigmoid": Sigmoid(),
    "edm": EDM(),
}


def error_weights(
    weighting: Weighting, schedule: NoiseSchedule, prediction: str | Parameterization
) -> Levels:
    r"""What each level's squared error of the network's output counts in the weighted loss.

    The loss is :math:`\sum_t c_t\, E\|y_t - \hat y_t\|^2 / D`, y the data, noise or v that the
    network predicts, D the dimensions.

    Args:
        weighting: w(λ).
        schedule: the chain.
        prediction: what the network predicts.

    Returns:
        c_t, (T+1,) float64, zero at level 0.
    """
    log_snr = schedule.log_snr[1:]
    kind = PARAMETERIZATIONS[prediction] if isinstance(prediction, str) else prediction
    if weighting.of_bound:
        # β̃_1 is zero, and β̃_2 is Σ_1 in its place.
        last = schedule.posterior_variance[2] if schedule.num_levels > 1 else schedule.betas[1]
        gains = torch.cat([1 / last.view(1), -schedule.snr[1:].diff()])
        weights = 0.5 * gains * kind.data_error(log_snr)
    else:
        weights = kind.noise_error(log_snr) / schedule.num_levels
    return torch.nn.functional.pad(weights * weighting(log_snr), (1, 0))


@lru_cache(maxsize=16)
def error_weight(
    weighting: Weighting, schedule: NoiseSchedule, prediction: str | Parameterization
) -> Coefficient:
    """`error_weights`, computed once, to be read at a level."""
    return Coefficient(error_weights(weighting, schedule, prediction))
