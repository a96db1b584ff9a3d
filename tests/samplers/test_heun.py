"""Algorithm 2 of Karras et al. 2022 against the paper's own lines, and its mistakes explained."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nelbo import Continuous, Diffusion, NelboError, NoiseSchedule
from nelbo.samplers import DPMSolver, Euler, Heun
from tests.diffusion.test_model import SHAPE, make
from tests.oracles.gaussian import exact_epsilon

ALL = [Euler(6), Heun(6), Heun(6, S_churn=3.0), DPMSolver(6, 3), DPMSolver(6, 2, stochastic=True)]
by_name = {"ids": lambda sampler: f"{type(sampler).__name__}-{getattr(sampler, 'S_churn', '')}"}


def algorithm_2(denoise, x, sigmas, S_churn, S_tmin, S_tmax, S_noise, generator, correct):
    """Line by line, on x = x_0 + σε."""
    N = len(sigmas)
    t = [*sigmas, 0.0]
    for i in range(N):
        gamma = min(S_churn / N, math.sqrt(2) - 1) if S_tmin <= t[i] <= S_tmax else 0.0
        t_hat = t[i] + gamma * t[i]
        x_hat = x
        if gamma > 0:
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x_hat = x + math.sqrt(t_hat**2 - t[i] ** 2) * S_noise * noise
        d = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0 and correct:
            d_next = (x - denoise(x, t[i + 1])) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (0.5 * d + 0.5 * d_next)
    return x


@pytest.mark.parametrize("kind", [Euler, Heun])
@pytest.mark.parametrize(
    "churn",
    [(0.0, 0.0, math.inf, 1.0), (2.0, 0.0, math.inf, 1.0), (40.0, 0.05, 5.0, 1.003)],
)
def test_is_algorithm_2(kind, churn):
    std, steps, T = 0.5, 9, 100
    schedule = NoiseSchedule.linear(T, 1e-3, 0.12)
    a = schedule.alphas_cumprod[1:].numpy()
    table = np.sqrt((1 - a) / a)

    def denoise(x, sigma):
        return x * std**2 / (std**2 + sigma**2)

    def network(x_t, time, condition):
        # x_t / a is denoised at the σ whose place in the chain is this time. Churn may pass the
        # largest σ, where the network time is that of the last level.
        log_sigma = np.interp(time[0].item(), np.arange(T), np.log(table))
        sigma = math.exp(log_sigma)
        return denoise(x_t * math.sqrt(1 + sigma**2), sigma)

    model = Diffusion(network, schedule, prediction="sample", shape=SHAPE)
    x_T = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    S_churn, S_tmin, S_tmax, S_noise = churn
    sampler = kind(steps, S_churn=S_churn, S_tmin=S_tmin, S_tmax=S_tmax, S_noise=S_noise, rho=5.0)
    ours = model.sample(4, sampler, x_T=x_T, generator=torch.Generator().manual_seed(1))
    ramp = np.arange(steps) / (steps - 1)
    sigmas = (table[-1] ** 0.2 + ramp * (table[0] ** 0.2 - table[-1] ** 0.2)) ** 5

    def clipped_denoise(x, sigma):
        if sigma <= table[-1]:
            return denoise(x, sigma)
        scaled = x / math.sqrt(1 + sigma**2) * math.sqrt(1 + table[-1] ** 2)
        return denoise(scaled, table[-1])

    theirs = algorithm_2(
        clipped_denoise,
        x_T * math.sqrt(1 + sigmas[0] ** 2),
        sigmas.tolist(),
        *churn,
        torch.Generator().manual_seed(1),
        kind is Heun,
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sampler", ALL, **by_name)
def test_samples_the_data_distribution(sampler, generator):
    schedule = NoiseSchedule.linear(1000)
    exact = exact_epsilon(schedule, 0.5)

    def network(x_t, time, condition):
        return exact(x_t, time.round().long())

    model = Diffusion(network, schedule, shape=(1, 4, 4))
    sampler = replace(sampler, steps=300 if type(sampler) is Euler else 60)
    x = model.sample(2000, sampler, generator=generator)
    assert x.mean().abs() < 0.02
    assert x.std().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "prediction", ["epsilon", "sample", "v_prediction", "velocity", "denoiser"]
)
@pytest.mark.parametrize("first", [1.0, 0.8])
def test_times_of_flow_matching_suit_a_network_of_any_state(prediction, first):
    """N(0.7, 0.3) data, whose flow from (1 − w) x_0 + w ε at the first time is known exactly."""
    mean, variance = 0.7, 0.3
    schedule = NoiseSchedule.cosine(200)
    log_sigma = schedule.sigmas[1:].log().numpy()

    def network(x, time, condition):
        # The state that each prediction promises its network, and the noise level from its time.
        time = time.double()
        if prediction == "velocity":
            a, s = 1 - time, time
        elif prediction == "denoiser":
            a, s = torch.ones_like(time), time
        else:
            between = np.interp(time.numpy(), np.arange(200), log_sigma)
            sigma = torch.from_numpy(np.exp(between))
            a = 1 / (1 + sigma.square()).sqrt()
            s = sigma * a
        a, s = a.view(-1, 1, 1, 1), s.view(-1, 1, 1, 1)
        excess = (x - a * mean) / (a**2 * variance + s**2)
        x_0, epsilon = mean + variance * a * excess, s * excess
        return {
            "epsilon": epsilon,
            "v_prediction": a * epsilon - s * x_0,
            "velocity": epsilon - x_0,
        }.get(prediction, x_0)

    model = Diffusion(network, schedule, prediction=prediction, data=Continuous(), shape=(1, 1, 1))
    if first == 1 and prediction in ("epsilon", "denoiser"):
        first = 0.999  # they have no x_0 where there is no signal
    x_T = torch.linspace(-2, 2, 5, dtype=torch.float64).view(-1, 1, 1, 1)
    found = Heun(200, times=np.linspace(first, 0.002, 200)).sample(model, x_T)
    spread = math.sqrt((1 - first) ** 2 * variance + first**2)
    exact = mean + math.sqrt(variance) / spread * (x_T - (1 - first) * mean)
    torch.testing.assert_close(found, exact, rtol=0, atol=0.006)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize("sampler", ALL, **by_name)
def test_a_chain_without_terminal_signal_gives_the_data_distribution(sampler, prediction):
    std = 0.5
    schedule = NoiseSchedule.linear(1000).with_zero_terminal_snr()
    table = schedule.alphas_cumprod[1:]

    def network(x_t, time, condition):
        a = table[time.round().long()].sqrt().to(x_t.dtype).view(-1, 1, 1, 1)
        x_0 = a * std**2 * x_t / (a**2 * std**2 + 1 - a**2)
        return x_0 if prediction == "sample" else (a * x_t - x_0) / (1 - a**2).sqrt()

    model = Diffusion(network, schedule, prediction=prediction, shape=(1, 4, 4))
    generator = torch.Generator().manual_seed(0)
    for noise_levels in ("spaced", "karras"):
        steps = 300 if isinstance(sampler, Euler) else 60
        chosen = replace(sampler, steps=steps, noise_levels=noise_levels)
        x = model.sample(1000, chosen, generator=generator)
        assert x.std().item() == pytest.approx(std, abs=0.03), noise_levels


@pytest.mark.parametrize(
    ("make_sampler", "message"),
    [
        (lambda: DPMSolver(5, 4), "DPMSolver has the orders 1, 2, 3, got 4"),
        (lambda: DPMSolver(5, 0), "orders 1, 2, 3, got 0"),
        (lambda: DPMSolver(5, 3, stochastic=True), "stochastic DPMSolver has the orders 1, 2, got"),
        (lambda: DPMSolver(5, solver_type="euler"), "unknown solver_type 'euler'"),
        (lambda: DPMSolver(13, noise_levels="karras"), r"1\.\.12"),
        (lambda: DPMSolver(5, noise_levels="even"), "unknown noise levels 'even'"),
        (lambda: Heun(5, noise_levels="even"), "unknown noise levels 'even'"),
        (lambda: Heun(5, rho=0.0), "rho must be positive"),
        (lambda: Euler(5, S_churn=-1.0), "S_churn must be at least 0"),
        (lambda: Heun(5, S_churn=1.0, S_noise="1"), "S_noise must be a number, got str '1'"),
        (lambda: Euler(5, noise_levels="flow", shift="2"), "shift must be a number"),
        (lambda: Euler(times=[]), r"times must decrease and lie in \(0, 1\], .*got \[\]"),
        (lambda: Euler(times=[0.5, 1.0]), r"times must decrease .*got \[0\.5, 1\.0\]"),
        (lambda: Euler(times=[1.5, 0.5]), r"times must .* lie in \(0, 1\]"),
        (lambda: Euler(times=[1.0, 0.0]), r"times must .* lie in \(0, 1\]"),
        (lambda: Euler(times=[1.0, float("nan")]), "times must decrease"),
        (lambda: Euler(times=["1"]), "each of times must be a number, got str '1'"),
    ],
)
def test_mistakes_are_explained(make_sampler, message):
    model = make()
    with pytest.raises(NelboError, match=message):
        model.sample(1, make_sampler())


@pytest.mark.parametrize("kind", [Euler, Heun])
def test_levels_that_are_left_open_suit_the_end_of_the_chain(kind):
    """Without signal w is even, as σ has no end there; with signal σ^(1/7) is; a spacing stays."""
    chain = NoiseSchedule.linear(100)
    without = chain.with_zero_terminal_snr()
    s, a = without.noise_scale[1], without.signal_scale[1]
    found = [level for level, _ in kind(5).path(without)]
    times = [level.noise_scale / (level.noise_scale + level.signal_scale) for level in found]
    assert times == pytest.approx(np.linspace(1, float(s / (s + a)), 5), rel=1e-9)
    sigmas = np.array([level.sigma for level, _ in kind(5).path(chain)]) ** (1 / 7)
    assert sigmas == pytest.approx(np.linspace(*sigmas[[0, -1]], 5), rel=1e-9)
    assert sigmas[[-1, 0]] == pytest.approx((chain.sigmas[[1, -1]] ** (1 / 7)).numpy(), rel=1e-9)
    spaced = [level.t for level, _ in kind(5, spacing="trailing").path(without)]
    assert spaced == [100, 80, 60, 40, 20]


def test_every_level_can_be_visited():
    model = make()
    for sampler in (DPMSolver(12, noise_levels="spaced"), Euler(12, noise_levels="spaced")):
        assert list(sampler.timesteps(model.schedule)) == list(range(11, -1, -1))
