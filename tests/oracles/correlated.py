"""Two correlated Gaussian pixels, for which the denoiser and every conditional are closed forms."""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo import Continuous, Diffusion, NoiseSchedule

SHAPE = (1, 1, 2)


def correlated_model(
    correlation: float, schedule: NoiseSchedule, variance: str = "fixed_small"
) -> Diffusion:
    """The exact model of pixels of unit variance: E[x_0|x_t] = a Σ (a² Σ + s² I)⁻¹ x_t."""
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64)
    signal = schedule.alphas_cumprod[1:].view(-1, 1, 1)
    inverse = torch.linalg.inv(signal * covariance + (1 - signal) * torch.eye(2))
    gains = signal.sqrt() * covariance @ inverse

    def network(x_t: Tensor, time: Tensor, condition=None) -> Tensor:
        return (gains[time] @ x_t.double().flatten(1)[..., None]).view_as(x_t).to(x_t.dtype)

    return Diffusion(
        network,
        schedule,
        prediction="sample",
        variance=variance,
        data=Continuous(),
        shape=SHAPE,
    )
