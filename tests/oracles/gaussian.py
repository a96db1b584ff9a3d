"""Gaussian data, for which the best denoiser and every term of the bound have closed forms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo import Continuous, Diffusion, NoiseSchedule


def exact_epsilon(schedule: NoiseSchedule, std: float):
    """E[ε | x_t] for data N(0, std²): √(1 − ᾱ) x_t / (ᾱ std² + 1 − ᾱ)."""

    def network(x_t: Tensor, time: Tensor, condition=None) -> Tensor:
        signal = schedule.alphas_cumprod[time + 1].to(x_t.dtype).view(-1, 1, 1, 1)
        return (1 - signal).sqrt() * x_t / (signal * std**2 + 1 - signal)

    return network


def gaussian_model(
    std: float, schedule: NoiseSchedule, variance: str, shape=(1, 2, 2), skill: float = 1.0
) -> Diffusion:
    """The exact model of N(0, std²) data, or a poor one that shrinks its noise by `skill`."""
    exact = exact_epsilon(schedule, std)

    def network(x_t: Tensor, time: Tensor, condition=None) -> Tensor:
        return skill * exact(x_t, time)

    return Diffusion(network, schedule, variance=variance, data=Continuous(), shape=shape)


def entropy(std: float) -> float:
    """Differential entropy of N(0, std²), nats."""
    return 0.5 * math.log(2 * math.pi * math.e * std**2)


def expected_terms(std: float, betas: Tensor, variance: str) -> tuple[float, float, Tensor]:
    """Closed-form E[reconstruction], E[prior matching] and E[score matching] (T+1,) a dimension.

    Everything from the joint normal of (x_0, x_{t-1}, x_t), float64, none of it nelbo's code.
    """
    signal = torch.cumprod(1 - betas.double(), 0)
    T = len(betas)
    previous = torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])
    posterior = betas * (1 - previous) / (1 - signal)
    sigma = posterior.clone() if variance == "fixed_small" else betas.double().clone()
    if variance == "fixed_small":
        sigma[0] = posterior[1]
    # Var[x_0 | x_t], the error of the exact denoiser
    error = 1 / (1 / std**2 + signal / (1 - signal))
    reconstruction = -0.5 * (torch.log(2 * math.pi * sigma[0]) + error[0] / sigma[0])
    last = signal[-1]
    prior = 0.5 * (last * std**2 + (1 - last) - 1 - torch.log(1 - last))
    weight = previous.sqrt() * betas / (1 - signal)
    kl = torch.zeros(T + 1, dtype=torch.float64)
    for t in range(2, T + 1):
        i = t - 1
        ratio = posterior[i] / sigma[i]
        kl[t] = 0.5 * (weight[i] ** 2 * error[i] / sigma[i] + ratio - 1 - torch.log(ratio))
    return reconstruction.item(), prior.item(), kl
