"""Exact networks of a mixture of pictures, in every convention of docs/your-own-network.md."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import nelbo
from nelbo import Continuous, Diffusion, NoiseSchedule

SHAPE = (1, 4, 4)
SPREAD = 0.1
_source = torch.Generator().manual_seed(3)
CENTERS = 2 * torch.rand(5, *SHAPE, generator=_source, dtype=torch.float64) - 1
DATA = CENTERS[torch.randint(5, (64,), generator=_source)] + SPREAD * torch.randn(
    64, *SHAPE, generator=_source, dtype=torch.float64
)
LINEAR = NoiseSchedule.linear(1000)
OPTIONS = {"shape": SHAPE, "data": Continuous()}


def wide(value: Tensor) -> Tensor:
    return value.double().view(-1, 1, 1, 1)


def mean_of_data(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x_0 + σ ε = x], by the weights of the five centres."""
    total = SPREAD**2 + sigma**2
    distance = (x[:, None] - CENTERS).square().sum((2, 3, 4)) / (2 * total.view(-1, 1))
    center = torch.einsum("bk,kchw->bchw", torch.softmax(-distance, 1), CENTERS)
    return (SPREAD**2 * x + sigma**2 * center) / total


def planted(state: str, told: str, answers: str, sign: float = 1.0) -> Callable[..., Tensor]:
    """The exact network that was trained by a convention.

    Args:
        state: what multiple of x_0 + σ ε it receives, by a key of STATES.
        told: what σ its time stands for, by a key of TIMES.
        answers: what it answers, by a key of ANSWERS.
        sign: of the answer.
    """

    def network(x: Tensor, time: Tensor, condition: object = None) -> Tensor:
        sigma = wide(TIMES[told](time)).clamp(1e-5, 1e5)
        scale = STATES[state](sigma)
        x_0 = mean_of_data(x / scale, sigma)
        return sign * ANSWERS[answers](x_0, (x / scale - x_0) / sigma, scale, sigma)

    return network


def alpha(time: Tensor) -> Tensor:
    return torch.exp(-0.25 * time**2 * 19.9 - 0.05 * time)


def sigma_of(time: Tensor) -> Tensor:
    return torch.sqrt(-torch.expm1(-0.5 * time**2 * 19.9 - 0.1 * time))


STATES: dict[str, Callable[[Tensor], Tensor]] = {
    "preserving": lambda sigma: 1 / (1 + sigma**2).sqrt(),
    "exploding": torch.ones_like,
    "flow": lambda sigma: 1 / (1 + sigma),
    "scaled": lambda sigma: 1 / (sigma**2 + 0.25).sqrt(),
}
TIMES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigma": lambda time: time,
    "level": lambda time: LINEAR.sigmas[1:][time.long().clamp(0, 999)],
    "level / 1000": lambda time: LINEAR.sigmas[1:][(1000 * time).long().clamp(0, 999)],
    "log sigma": torch.exp,
    "c_noise": lambda time: (4 * time.double()).exp(),
    "s": lambda s: (s.double() / (1 - s.double())).abs(),
    "1000 s": lambda s: (s.double() / (1000 - s.double())).abs(),
    "1 - s": lambda s: ((1 - s.double()) / s.double()).abs(),
    "embedding": lambda s: torch.arange(1000).double()[_whole(s)] / (1000 - _whole(s)),
    "vp": lambda time: sigma_of(time.double()) / alpha(time.double()),
    "1000 vp": lambda time: sigma_of(time.double() / 1000) / alpha(time.double() / 1000),
}
ANSWERS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "noise": lambda x_0, noise, scale, sigma: noise,
    "data": lambda x_0, noise, scale, sigma: x_0,
    "v": lambda x_0, noise, scale, sigma: (noise - sigma * x_0) / (1 + sigma**2).sqrt(),
    "velocity": lambda x_0, noise, scale, sigma: noise - x_0,
    "score": lambda x_0, noise, scale, sigma: -noise / (scale * sigma),
    "raw": lambda x_0, noise, scale, sigma: (
        (sigma * x_0 - 0.25 * noise) / (0.5 * (sigma**2 + 0.25).sqrt())
    ),
}


def _whole(time: Tensor) -> Tensor:
    if time.is_floating_point():
        raise RuntimeError("Expected tensor for argument #1 'indices' to have scalar type Long")
    return time


Network = Callable[..., Tensor]


def _same(time: Tensor) -> Tensor:
    return time


# Each way to hand a network over, with the convention that is right for it.
FORMS: dict[str, tuple[Callable[[Network], Diffusion], tuple[str, str, str] | tuple]] = {
    "ddpm": (
        lambda net: nelbo.from_epsilon(net, schedule=LINEAR, **OPTIONS),
        ("preserving", "level", "noise"),
    ),
    "v": (
        lambda net: Diffusion(
            net, LINEAR, prediction="v_prediction", variance="fixed_large", **OPTIONS
        ),
        ("preserving", "level", "v"),
    ),
    "edm": (
        lambda net: nelbo.from_denoiser(net, **OPTIONS),
        ("exploding", "sigma", "data"),
    ),
    "raw": (
        lambda net: nelbo.from_denoiser(nelbo.preconditioned(net, 0.5), **OPTIONS),
        ("scaled", "c_noise", "raw"),
    ),
    "k-diffusion": (
        lambda net: nelbo.from_epsilon(
            net, alpha=lambda s: 1.0, sigma=_same, times=(0.002, 80.0), **OPTIONS
        ),
        ("exploding", "sigma", "noise"),
    ),
    "vp-sde": (
        lambda net: nelbo.from_score(
            net, alpha=alpha, sigma=sigma_of, times=(1e-3, 1.0), **OPTIONS
        ),
        ("preserving", "vp", "score"),
    ),
    "ve-sde": (
        lambda net: nelbo.from_score(
            net, alpha=lambda s: 1.0, sigma=_same, times=(0.01, 50.0), **OPTIONS
        ),
        ("exploding", "sigma", "score"),
    ),
    "flow": (lambda net: nelbo.from_velocity(net, **OPTIONS), ("flow", "s", "velocity")),
    "flow in 0..1000": (
        lambda net: nelbo.from_velocity(lambda x, s: net(x, 1000 * s), **OPTIONS),
        ("flow", "1000 s", "velocity"),
    ),
    "flow from noise": (
        lambda net: nelbo.from_velocity(lambda x, s: -net(x, 1 - s), **OPTIONS),
        ("flow", "1 - s", "velocity", -1.0),
    ),
}
