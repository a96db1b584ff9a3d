"""Families that are one another, as the lecture draws them."""

from __future__ import annotations

import torch
from torch.distributions import MultivariateNormal

from nelbo import NoiseSchedule
from nelbo.families.hmm_inference import hmm_smoother
from nelbo.families.kalman import System, kalman_filter, kalman_smoother
from nelbo.families.state_space import DiagonalLayer
from tests.oracles.correlated import correlated_model

EYE = torch.eye(2, dtype=torch.float64)


def test_the_forward_process_is_a_linear_dynamical_system(generator):
    """log q(x_0, ..., x_T) of Gaussian data, by its steps and by the Kalman filter."""
    beta, levels = 0.1, 6
    schedule = NoiseSchedule.from_betas(torch.full((levels,), beta, dtype=torch.float64))
    model = correlated_model(0.8, schedule)
    data = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    path, density = [x], MultivariateNormal(torch.zeros(2).double(), data).log_prob(x)
    for t in range(1, levels + 1):
        q = model.q_step(path[-1].view(-1, 1, 1, 2), t)
        after = q.mean + q.stddev * torch.randn(5, 1, 1, 2, generator=generator).double()
        density = density + q.log_prob(after).flatten(1).sum(1)
        path.append(after.flatten(1))
    system = System(
        initial=data,
        transition=(1 - beta) ** 0.5 * EYE,
        process=beta * EYE,
        observation=EYE,
        offset=torch.zeros(levels + 1, 2, dtype=torch.float64),
        noise=torch.full((2,), 1e-9, dtype=torch.float64),  # x_t is seen as it is
    )
    found = kalman_filter(system, torch.stack(path, 1)).log_likelihood
    torch.testing.assert_close(found, density, atol=1e-5, rtol=0)


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
