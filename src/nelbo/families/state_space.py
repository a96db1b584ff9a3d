r"""Diagonal state space layers: a linear recurrence of each channel, computed in two ways.

A channel with input u(t) has N complex states, :math:`h' = A h + u`, :math:`y = 2\,\mathrm{Re}(C h)
+ D u`. Held between steps of length Δ (zero-order hold) it is

.. math::
    h_k = \bar A h_{k-1} + \bar B u_k, \qquad
    \bar A = e^{\Delta A}, \quad \bar B = (\bar A - 1)/A

which is the **recurrent** mode. The same map is a convolution, :math:`y = K * u + D u` with
:math:`K_l = 2\,\mathrm{Re} \sum_n C_n \bar B_n \bar A_n^l`, by FFT for whole sequences: the
**convolutional** mode (S4D, Gu et al. 2022, with A = −1/2 + iπn at first).

`SelectiveLayer` makes Δ, B and C functions of the input (Mamba, Gu & Dao 2023, eq. 2), with real
A < 0 and :math:`\bar B = \Delta B`, the first order of the hold. It is then no convolution, and
whole sequences are computed by the recurrence too.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

# The steps Δ at first, evenly spread in logarithm over channels.
_LEAST_STEP, _LARGEST_STEP = 1e-3, 1e-1
_RANK = 8
# Steps of a sequence that a selective layer computes at a time.
_PART = 64


class StateSpaceLayer(nn.Module, ABC):
    """A linear recurrence of each of D channels."""

    @abstractmethod
    def forward(self, u: Float[Tensor, "batch length width"]) -> Tensor:
        """Whole sequences."""

    @abstractmethod
    def step(self, u: Float[Tensor, "batch width"], h: Tensor | None) -> tuple[Tensor, Tensor]:
        """One step from the states h (B, D, N), None at first: the output and the states after."""


class DiagonalLayer(StateSpaceLayer):
    """S4D: the same recurrence at every step.

    Args:
        width: D, the number of channels.
        states: N, the number of complex states of each.
    """

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.log_step = nn.Parameter(_steps(width).log())
        self.log_decay = nn.Parameter(torch.full((width, states), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(states).repeat(width, 1).float())
        self.c = nn.Parameter(torch.randn(width, states, 2) / math.sqrt(2))
        self.d = nn.Parameter(torch.randn(width))

    def forward(self, u: Float[Tensor, "batch length width"]) -> Tensor:
        """By the convolution."""
        length = u.shape[1]
        log_a, b, c = self._discrete()
        powers = (log_a[:, :, None] * torch.arange(length, device=u.device)).exp()
        kernel = 2 * torch.einsum("dn,dnl->dl", b * c, powers).real
        size = 2 * length  # zeros beyond the end keep it from wrapping around
        along = u.transpose(1, 2).contiguous()
        product = torch.fft.rfft(along, size) * torch.fft.rfft(kernel, size)
        return torch.fft.irfft(product, size)[:, :, :length].transpose(1, 2) + self.d * u

    def step(self, u: Float[Tensor, "batch width"], h: Tensor | None) -> tuple[Tensor, Tensor]:
        """By the recurrence."""
        log_a, b, c = self._discrete()
        new = b * u[:, :, None]
        h = new if h is None else log_a.exp() * h + new
        return 2 * (c * h).sum(2).real + self.d * u, h

    def _discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """log Ā = ΔA, B̄ and C, (D, N) complex."""
        a = torch.complex(-self.log_decay.exp(), self.frequency)
        log_a = self.log_step.exp()[:, None] * a
        return log_a, log_a.expm1() / a, torch.view_as_complex(self.c)


class SelectiveLayer(StateSpaceLayer):
    """Mamba's recurrence: step, input and output of the states depend on u.

    Args:
        width: D, the number of channels.
        states: N, the number of real states of each.
    """

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.log_decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(width, 1))
        self.states = states
        self.select = nn.Linear(width, _RANK + 2 * states, bias=False)
        self.to_step = nn.Linear(_RANK, width)
        self.d = nn.Parameter(torch.ones(width))
        with torch.no_grad():  # softplus(bias) is the step at first
            self.to_step.bias.copy_(torch.expm1(_steps(width)).log())

    def forward(self, u: Float[Tensor, "batch length width"]) -> Tensor:
        """Step by step, one part of the sequence after the other.

        What is within a part is computed anew for the gradient, for every step has as many numbers
        as there are states.
        """
        h, found = u.new_zeros(len(u), *self.log_decay.shape), []
        for part in u.split(_PART, 1):
            y, h = checkpoint(self._scan, part, h, use_reentrant=False)
            found.append(y)
        return torch.cat(found, 1)

    def _scan(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs after each step from the states h, and the last states."""
        a, b, c = self._selected(u)
        states = []
        for held, new in zip(a.unbind(1), b.unbind(1), strict=True):
            h = held * h + new
            states.append(h)
        return (torch.stack(states, 1) * c[:, :, None]).sum(3) + self.d * u, h

    def step(self, u: Float[Tensor, "batch width"], h: Tensor | None) -> tuple[Tensor, Tensor]:
        """By the recurrence."""
        a, b, c = self._selected(u)
        h = b if h is None else a * h + b
        return (h * c[:, None]).sum(2) + self.d * u, h

    def _selected(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ā and B̄u, (..., D, N), and C, (..., N)."""
        low, b, c = self.select(u).split([_RANK, self.states, self.states], -1)
        step = softplus(self.to_step(low))
        a = (-step[..., None] * self.log_decay.exp()).exp()
        return a, (step * u)[..., None] * b[..., None, :], c


def _steps(width: int) -> Tensor:
    return torch.logspace(math.log10(_LEAST_STEP), math.log10(_LARGEST_STEP), width)
