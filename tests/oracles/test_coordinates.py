"""Exact networks of a Gaussian mixture in every coordinate system are one chain, in float64.

Each is written in its own coordinates; the noise form is that of DDPM, called with the level.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import nelbo
from nelbo import Condition, Continuous, Diffusion
from nelbo.diffusion.flow import log_likelihood
from nelbo.editing import ImageToImage, Inpainting, Interpolation, Inversion
from nelbo.samplers import DDIM, DDPM, DPMSolver, Euler, Heun

SHAPE, DIMS, T = (1, 2, 2), 4, 40
SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([[-0.8, 0.1, 0.5, 0.0], [0.4, 0.3, -0.2, 0.6]], dtype=torch.float64)
STDS = torch.tensor([[0.2, 0.5, 0.3, 0.4], [0.3, 0.1, 0.6, 0.2]], dtype=torch.float64)


def noisy(alpha: float, sigma: float) -> MixtureSameFamily:
    """The density of α x_0 + σ ε."""
    parts = Independent(Normal(alpha * MEANS, (alpha**2 * STDS**2 + sigma**2).sqrt()), 1)
    return MixtureSameFamily(Categorical(SHARES), parts)


def data_of(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x] at x = α x_0 + σ ε: the mean of each part, as likely as x makes it."""
    alpha, sigma = (scale.double().view(-1, 1, 1) for scale in (alpha, sigma))
    states, variances = x.flatten(1).unsqueeze(1), alpha**2 * STDS**2 + sigma**2
    errors = states - alpha * MEANS
    log_weights = SHARES.log() - 0.5 * (errors**2 / variances + variances.log()).sum(2)
    means = MEANS + alpha * STDS**2 / variances * errors
    return (log_weights.softmax(1).unsqueeze(2) * means).sum(1).view_as(x)


def column(time: Tensor) -> Tensor:
    return time.double().view(-1, 1, 1, 1)


def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    return data_of(x, torch.ones_like(sigma), sigma)


def velocity(x: Tensor, s: Tensor) -> Tensor:
    return (x - data_of(x, 1 - s, s)) / column(s)


def score_ve(x: Tensor, sigma: Tensor) -> Tensor:
    return (denoiser(x, sigma) - x) / column(sigma) ** 2


def alpha_vp(time: Tensor) -> Tensor:
    return torch.exp(-0.25 * time**2 * 19.9 - 0.05 * time)


def sigma_vp(time: Tensor) -> Tensor:
    return torch.sqrt(-torch.expm1(-0.5 * time**2 * 19.9 - 0.1 * time))


def score_vp(x: Tensor, time: Tensor) -> Tensor:
    a, s = alpha_vp(time), sigma_vp(time)
    return (column(a) * data_of(x, a, s) - x) / column(s) ** 2


OPTIONS = {"shape": SHAPE, "T": T, "data": Continuous()}
VE = {"alpha": lambda s: 1.0, "sigma": lambda s: s, "times": (0.02, 400.0)}
FORMS = {
    "denoiser": lambda: nelbo.from_denoiser(denoiser, sigma_min=0.02, sigma_max=400.0, **OPTIONS),
    "velocity": lambda: nelbo.from_velocity(velocity, sigma_min=0.02, sigma_max=400.0, **OPTIONS),
    "score, exploding": lambda: nelbo.from_score(score_ve, **VE, **OPTIONS),
    "score, preserving": lambda: nelbo.from_score(
        score_vp, alpha=alpha_vp, sigma=sigma_vp, times=(1e-2, 1.0), **OPTIONS
    ),
}


def ddpm_form(model: Diffusion) -> Diffusion:
    """The noise of the same data at the same levels; between two, log σ is linear in the time."""
    schedule = model.schedule
    log_sigmas, levels = schedule.sigmas[1:].log().numpy(), np.arange(T)

    def network(x: Tensor, time: Tensor, condition: Condition | None = None) -> Tensor:
        log_sigma = torch.from_numpy(np.interp(time.double().numpy(), levels, log_sigmas))
        s, a = (torch.sigmoid(2 * sign * log_sigma).sqrt() for sign in (1, -1))
        return (x - column(a) * data_of(x, a, s)) / column(s)

    return Diffusion(network, schedule, variance=model.variance, data=Continuous(), shape=SHAPE)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=FORMS, scope="module")
def pair(request) -> tuple[Diffusion, Diffusion]:
    model = FORMS[request.param]()
    return model, ddpm_form(model)


@pytest.fixture(scope="module")
def x_0() -> Tensor:
    torch.manual_seed(0)
    return noisy(1.0, 0.0).sample((8,)).view(8, *SHAPE)


def same(found: list[Tensor]) -> None:
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-8)


def test_bounds_agree(pair, x_0):
    for levels in (None, 3):
        same([m.elbo(x_0, levels=levels, generator=seeded()).elbo for m in pair])
    same([m.path_elbo(x_0, generator=seeded()) for m in pair])
    same([m.respace([2, 15, 40]).elbo(x_0, generator=seeded()).elbo for m in pair])


# Between levels DPM-Solver calls a network that counts them at the nearest, as diffusers does.
SAMPLERS = {
    "DDPM": DDPM(8),
    "DDIM": DDIM(8, eta=0.5),
    "Euler": Euler(8),
    "Heun": Heun(6),
    "DPMSolver": DPMSolver(8, spacing="trailing"),
    "DPMSolver of order 3": DPMSolver(8, 3, spacing="trailing"),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_agree(name: str, pair):
    same([m.sample(4, SAMPLERS[name], x_T=start(), generator=seeded()) for m in pair])


def optimal_bound(model: Diffusion, x_0: Tensor) -> Tensor:
    """The bound of the best short chain, with the variance that is best for it."""
    fitted = nelbo.fit_variance(model, x_0, levels=None, generator=seeded())
    assert fitted.profile is not None
    short = fitted.respace(nelbo.optimal_levels(fitted.profile, 6))
    return short.elbo(x_0, generator=seeded()).elbo


def start() -> Tensor:
    return torch.randn(4, *SHAPE, dtype=torch.float64, generator=seeded())


MASK = torch.tensor([[True, False], [False, True]])
USES = {
    "importance weighting": lambda m, x: m.importance_weighted_elbo(x, paths=3, generator=seeded()),
    "map": lambda m, x: m.bound_map(x, levels=4, generator=seeded()).nats,
    "optimal levels and variance": optimal_bound,
    "image to image": lambda m, x: ImageToImage(DDIM(8)).edit(m, x, generator=seeded()),
    "inpainting": lambda m, x: Inpainting(MASK, DDPM(8), jump_length=2, jump_n_sample=2).edit(
        m, x, generator=seeded()
    ),
    "inversion": lambda m, x: Inversion(DDIM(8), refinements=1).edit(m, x),
    "interpolation": lambda m, x: Interpolation(3, DDIM(6)).edit(m, x[:2]),
}


@pytest.mark.parametrize("use", USES)
def test_uses_agree(use: str, pair, x_0):
    same([USES[use](m, x_0) for m in pair])


def test_flow_likelihoods_agree_with_the_density(pair, x_0):
    options = {"trace": "exact", "rtol": 1e-6, "atol": 1e-6}
    found = [log_likelihood(m, x_0, **options).log_likelihood for m in pair]
    same(found)
    # The density that the flow starts from is that of a x_0 at level 1.
    a, s = pair[0].schedule.noise_level(1)[:2]
    exact = noisy(a, s).log_prob(a * x_0.flatten(1)) + DIMS * math.log(a)
    torch.testing.assert_close(found[0], exact, rtol=0, atol=0.02)


def test_the_bound_is_below_the_density_and_near(x_0):
    """E[log p(x) − ELBO] is positive, and small where levels are fine."""
    torch.manual_seed(1)
    data = noisy(1.0, 0.0).sample((300,))
    model = nelbo.from_velocity(
        velocity, shape=SHAPE, T=300, sigma_min=0.01, sigma_max=200.0, data=Continuous()
    )
    bound = model.elbo(data.view(-1, *SHAPE), generator=seeded()).elbo
    gap = (noisy(1.0, 0.0).log_prob(data) - bound) / DIMS
    error = float(gap.std()) / math.sqrt(len(gap))
    assert -3 * error < float(gap.mean()) < 0.06
    assert error < 0.03
