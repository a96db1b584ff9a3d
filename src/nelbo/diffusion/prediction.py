r"""What the network predicts, and the three ways to read it.

At a given :math:`x_t = a x_0 + s \epsilon` with :math:`a = \sqrt{\bar\alpha_t}` and
:math:`s = \sqrt{1 - \bar\alpha_t}`, the data, the noise and
:math:`v = a\epsilon - s x_0` (Salimans & Ho 2022, appendix D) are linear in one another:

.. math::
    x_0 = (x_t - s\epsilon) / a = a x_t - s v, \qquad
    \epsilon = (x_t - a x_0) / s = s x_t + a v.

A squared error of one is therefore one of the others, times a function of
:math:`\lambda = \log(a^2/s^2)`, with :math:`a^2 = \mathrm{sigmoid}(\lambda)` and
:math:`s^2 = \mathrm{sigmoid}(-\lambda)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.diffusion.thresholding import Threshold


class Parameterization(NamedTuple):
    """How a network's output stands to x_0 and ε.

    The first three functions take a and s last. The last two give the squared error of x_0 and of
    ε for a squared error of one of the output, as functions of λ.
    """

    x_0: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (output, x_t, a, s)
    epsilon: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (output, x_t, a, s)
    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (x_0, epsilon, a, s)
    data_error: Callable[[Tensor], Tensor]  # (λ)
    noise_error: Callable[[Tensor], Tensor]  # (λ)


PARAMETERIZATIONS = {
    "epsilon": Parameterization(
        x_0=lambda output, x_t, a, s: (x_t - s * output) / a,
        epsilon=lambda output, x_t, a, s: output,
        target=lambda x_0, epsilon, a, s: epsilon,
        data_error=lambda log_snr: torch.exp(-log_snr),
        noise_error=torch.ones_like,
    ),
    "sample": Parameterization(
        x_0=lambda output, x_t, a, s: output,
        epsilon=lambda output, x_t, a, s: (x_t - a * output) / s,
        target=lambda x_0, epsilon, a, s: x_0,
        data_error=torch.ones_like,
        noise_error=torch.exp,
    ),
    "v_prediction": Parameterization(
        x_0=lambda output, x_t, a, s: a * x_t - s * output,
        epsilon=lambda output, x_t, a, s: s * x_t + a * output,
        target=lambda x_0, epsilon, a, s: a * epsilon - s * x_0,
        data_error=lambda log_snr: torch.sigmoid(-log_snr),
        noise_error=torch.sigmoid,
    ),
}


@dataclass(frozen=True)
class Prediction:
    """What the model says of x_0 given x_t, read as x_0, ε or v, and the variance of p_step.

    Attributes:
        parameterization: which of them the network gave.
        output: the network's output for it, (B, C, H, W).
        x_t: the state it was given.
        signal_scale: a at the level, broadcastable to x_t.
        noise_scale: s at the level, broadcastable to x_t.
        log_variance: log Σ_t of p(x_{t-1}|x_t), broadcastable to x_t; nan off the chain's levels.
        threshold: what keeps x_0 in range, or None; ε and v stay the network's own.
    """

    parameterization: Parameterization
    output: Tensor
    x_t: Tensor
    signal_scale: Tensor
    noise_scale: Tensor
    log_variance: Tensor
    threshold: Threshold | None

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
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    def _read(self, read: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        return read(self.output, self.x_t, self.signal_scale, self.noise_scale)
