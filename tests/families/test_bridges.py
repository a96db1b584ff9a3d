"""Families that are one another, as the lecture draws them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from nelbo import NoiseSchedule
from nelbo.chain.mhvae import MHVAE
from nelbo.families.hmm_inference import hmm_smoother
from nelbo.families.kalman import System, kalman_filter, kalman_smoother
from nelbo.families.state_space import DiagonalLayer
from tests.oracles.correlated import correlated_model
from tests.oracles.linear_autoencoder import (
    NOISE,
    STD,
    LinearAutoencoder,
    draw_images,
    evidence,
    latent_model,
)

EYE = torch.eye(2, dtype=torch.float64)
CORRELATION = 0.8
DATA = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=torch.float64)


BETA, LEVELS, PATHS = 0.1, 6, 150
SCHEDULE = NoiseSchedule.from_betas(torch.full((LEVELS,), BETA, dtype=torch.float64))


def forward_process(data: Tensor, seen: tuple[int, ...]) -> System:
    """x_0, ..., x_T of data N(0, `data`) as states, of which those at the levels seen are known."""
    noise = torch.full((LEVELS + 1, len(data)), math.inf, dtype=torch.float64)
    noise[list(seen)] = 0.0
    return System(
        initial=data,
        transition=(1 - BETA) ** 0.5 * EYE,
        process=BETA * EYE,
        observation=EYE,
        offset=torch.zeros(LEVELS + 1, len(data), dtype=torch.float64),
        noise=noise,
    )


def test_the_forward_process_is_a_linear_dynamical_system(generator):
    """log q(x_0, ..., x_T) of Gaussian data, by its steps and by the Kalman filter."""
    model = correlated_model(CORRELATION, SCHEDULE)
    x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    path, density = [x], MultivariateNormal(torch.zeros(2).double(), DATA).log_prob(x)
    for t in range(1, LEVELS + 1):
        q = model.q_step(path[-1].view(-1, 1, 1, 2), t)
        after = q.mean + q.stddev * torch.randn(5, 1, 1, 2, generator=generator).double()
        density = density + q.log_prob(after).flatten(1).sum(1)
        path.append(after.flatten(1))
    every = forward_process(DATA, tuple(range(LEVELS + 1)))
    found = kalman_filter(every, torch.stack(path, 1)).log_likelihood
    torch.testing.assert_close(found, density, atol=1e-8, rtol=0)


def known(x_t: Tensor, t: int, x_0: Tensor | None = None) -> Tensor:
    """A sequence of states of which x_t, and x_0 if given, are known."""
    x = torch.full((len(x_t), LEVELS + 1, 2), math.nan, dtype=torch.float64)
    x[:, t] = x_t
    if x_0 is not None:
        x[:, 0] = x_0
    return x


@pytest.mark.parametrize("t", range(2, LEVELS + 1))
def test_the_exact_reverse_process_is_the_kalman_smoother(t, generator):
    """q(x_{t−1}|x_t) of correlated Gaussian data: the mean that the exact denoiser has the chain
    step to, and the covariance that the law of total variance gives."""
    model = correlated_model(CORRELATION, SCHEDULE)
    x_t, x_0 = torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)
    images = x_t.view(-1, 1, 1, 2)
    states = kalman_smoother(forward_process(DATA, (t,)), known(x_t, t)).states
    step = model.p_step(images, t).mean.flatten(1)
    torch.testing.assert_close(states.means[:, t - 1], step, atol=1e-10, rtol=0)
    denoised = model.predict(images, t).x_0.flatten(1)
    torch.testing.assert_close(states.means[:, 0], denoised, atol=1e-10, rtol=0)

    signal, before = (1 - BETA) ** t, (1 - BETA) ** (t - 1)
    spread = signal * DATA + (1 - signal) * EYE
    unknown = DATA - signal * DATA @ torch.linalg.inv(spread) @ DATA  # Cov[x_0 | x_t]
    weight = before**0.5 * BETA / (1 - signal)
    least = BETA * (1 - before) / (1 - signal)
    expected = least * EYE + weight**2 * unknown
    torch.testing.assert_close(states.covariances[t - 1], expected, atol=1e-10, rtol=0)

    # Seen as well, x_0 leaves the posterior of the theorem.
    states = kalman_smoother(forward_process(DATA, (0, t)), known(x_t, t, x_0)).states
    q = model.q_posterior(images, x_0.view_as(images), t)
    torch.testing.assert_close(states.means[:, t - 1], q.mean.flatten(1), atol=1e-10, rtol=0)
    variance = q.variance.flatten(1)[0]
    torch.testing.assert_close(states.covariances[t - 1], torch.diag(variance), atol=1e-10, rtol=0)


@pytest.mark.parametrize(("seen", "variance"), [((4,), "fixed_large"), ((0, 4), "fixed_small")])
def test_the_two_variances_of_ddpm_are_those_of_the_smoother(seen, variance):
    """β_t where nothing is known of data N(0, I), β̃_t where x_0 is known."""
    x = torch.zeros(1, LEVELS + 1, 2, dtype=torch.float64)
    states = kalman_smoother(forward_process(EYE, seen), x).states
    model = correlated_model(0.0, SCHEDULE, variance)
    found = model.p_step(torch.zeros(1, 1, 1, 2, dtype=torch.float64), 4).variance.flatten()
    torch.testing.assert_close(states.covariances[3], torch.diag(found), atol=1e-10, rtol=0)


def test_a_chain_whose_reverse_is_exact_has_the_likelihood_on_every_path(generator):
    """A diffusion is an MHVAE: by its distributions alone, one path has log p(x_0)."""
    model = correlated_model(0.0, SCHEDULE, "fixed_large").double()
    x = torch.randn(5, 1, 1, 2, generator=generator, dtype=torch.float64)
    expected = Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1)
    path = [x]
    total = torch.zeros_like(expected)
    for t in range(1, LEVELS + 1):
        q = model.q_step(path[-1], t)
        path.append(q.sample())
        p = model.p_data(path[t]) if t == 1 else model.p_step(path[t], t)
        total += (p.log_prob(path[t - 1]) - q.log_prob(path[t])).flatten(1).sum(1)
    total += model.p_prior(path[-1].shape).log_prob(path[-1]).flatten(1).sum(1)
    torch.testing.assert_close(total, expected, atol=1e-8, rtol=0)
    assert isinstance(model, MHVAE)
    found = model.path_elbo(x, generator=generator)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("spread", [1.0, 1.7])
def test_a_vae_is_a_latent_diffusion_whose_prior_is_standard(spread, generator):
    """Where the chain of latents is N(0, I) at every level, the bound is that of a VAE: the
    likelihood with the true posterior, and less by its divergence with another."""
    autoencoder = LinearAutoencoder(shift=0.1 * (spread - 1), spread=spread)
    model = latent_model(SCHEDULE, autoencoder, scale=1 / STD)
    x = draw_images(6, generator)
    q = Normal(*(model.scale * part for part in _moments(autoencoder, x)))
    elbos = torch.stack([model.path_elbo(x, generator=generator) for _ in range(PATHS)])
    z = q.sample((PATHS,))
    decoder = Normal(autoencoder.decode(z.flatten(0, 1) / model.scale), NOISE)
    reconstruction = decoder.log_prob(x.repeat(PATHS, 1, 1, 1)).flatten(1).sum(1).view(PATHS, -1)
    kl = kl_divergence(q, Normal(0.0, 1.0)).flatten(1).sum(1)
    vae = reconstruction - kl
    if spread == 1.0:
        torch.testing.assert_close(elbos, evidence(x).expand_as(elbos), atol=1e-8, rtol=0)
    error = (elbos.var(0) + vae.var(0)).div(PATHS).sqrt()
    assert ((elbos.mean(0) - vae.mean(0)).abs() < 4 * error + 1e-8).all()


def _moments(autoencoder: LinearAutoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    q = autoencoder.encode(x)
    return q.mean, q.stddev


def test_forward_backward_and_the_kalman_smoother_are_one_algorithm(generator):
    """A linear dynamical system on a grid of states is a hidden Markov model."""
    grid = torch.linspace(-8, 8, 801, dtype=torch.float64)

    def column(value: float) -> torch.Tensor:
        return torch.tensor([[value]], dtype=torch.float64)

    system = System(
        initial=column(1.0),
        transition=column(0.7),
        process=column(0.5),
        observation=column(1.3),
        offset=torch.zeros(4, 1, dtype=torch.float64),
        noise=torch.tensor([0.3], dtype=torch.float64),
    )
    x = torch.randn(3, 4, 1, generator=generator, dtype=torch.float64)

    def density(value: torch.Tensor, mean: torch.Tensor, variance: float) -> torch.Tensor:
        return torch.distributions.Normal(mean, variance**0.5).log_prob(value)

    step = grid[1] - grid[0]
    initial = density(grid, torch.zeros(()).double(), 1.0).exp() * step
    transition = density(grid, 0.7 * grid[:, None], 0.5).exp() * step
    log_b = density(x, 1.3 * grid, 0.3)
    sums, integrals = hmm_smoother(initial, transition, log_b), kalman_smoother(system, x)
    torch.testing.assert_close(sums.log_likelihood, integrals.log_likelihood, atol=1e-8, rtol=0)
    mean = sums.states @ grid
    torch.testing.assert_close(mean, integrals.states.means[..., 0], atol=1e-8, rtol=0)
    variance = sums.states @ grid.square() - mean.square()
    expected = integrals.states.covariances[:, 0, 0].expand_as(variance)
    torch.testing.assert_close(variance, expected, atol=1e-8, rtol=0)


def test_a_linear_recurrent_network_is_a_state_space_model(generator):
    """The recurrence of a diagonal layer as a real matrix, stepped as a network would."""
    torch.manual_seed(0)
    layer = DiagonalLayer(1, 2).double().requires_grad_(False)
    a = (layer.log_step.exp() * torch.complex(-layer.log_decay.exp(), layer.frequency)[0]).exp()
    b = (a - 1) / torch.complex(-layer.log_decay.exp(), layer.frequency)[0]
    c = torch.view_as_complex(layer.c)[0]
    # Each complex state is a rotation and a decay of two real ones.
    turn = torch.block_diag(*[torch.tensor([[z.real, -z.imag], [z.imag, z.real]]) for z in a])
    into = torch.view_as_real(b).flatten()
    out = 2 * torch.stack([c.real, -c.imag], 1).flatten()
    u = torch.randn(1, 30, 1, generator=generator, dtype=torch.float64)
    h, expected = torch.zeros(4, dtype=torch.float64), []
    for value in u[0, :, 0]:
        h = turn @ h + into * value
        expected.append(out @ h + layer.d[0] * value)
    torch.testing.assert_close(layer(u)[0, :, 0], torch.stack(expected), atol=1e-10, rtol=0)
