"""The probability-flow likelihood against densities in closed form."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from nelbo import Continuous, Diffusion, MissingExtraError, NelboError, NoiseSchedule, Pixels
from nelbo.chain.distributions import DiscretizedNormal
from nelbo.diffusion import flow
from nelbo.evidence import likelihood

STD = 0.5
SHAPE = (1, 2, 2)
TRACES = ("exact", "rademacher", "normal")
TIGHT = {"rtol": 1e-6, "atol": 1e-6}


def signal_at(schedule: NoiseSchedule, time: Tensor) -> Tensor:
    """ᾱ at fractional network times, by numpy's interpolation of log(s/a)."""
    u = np.interp(time.double(), schedule.network_times[1:], -0.5 * schedule.log_snr[1:])
    return torch.sigmoid(-2 * torch.as_tensor(u)).view(-1, 1, 1, 1)


def gaussian_flow(schedule: NoiseSchedule, data=None, prediction="epsilon", **options) -> Diffusion:
    """The exact denoiser of N(0, STD²) data at every time, whole or not."""

    def network(x_t: Tensor, time: Tensor, condition=None) -> Tensor:
        signal = signal_at(schedule, time).to(x_t)
        a, s = signal.sqrt(), (1 - signal).sqrt()
        x_0 = a * STD**2 * x_t / (signal * STD**2 + 1 - signal)
        epsilon = (x_t - a * x_0) / s
        return {"epsilon": epsilon, "sample": x_0, "v_prediction": a * epsilon - s * x_0}[
            prediction
        ]

    return Diffusion(
        network, schedule, prediction=prediction, data=data or Continuous(), shape=SHAPE, **options
    ).eval()


class Mixture:
    """Two round Gaussians in four dimensions, with the exact denoiser at every noise level."""

    centres = 0.7 * torch.tensor([[1.0, 1.0, -1.0, 0.5], [-1.0, 0.3, 0.2, -0.8]]).double()
    std = 0.2

    def noisy(self, signal: float) -> MixtureSameFamily:
        """The density of x_t: the mixture, scaled and convolved with a Gaussian."""
        scale = math.sqrt(signal * self.std**2 + 1 - signal)
        parts = Independent(Normal(math.sqrt(signal) * self.centres, scale), 1)
        return MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7]).double()), parts)

    def model(self, schedule: NoiseSchedule) -> Diffusion:
        def network(x_t: Tensor, time: Tensor, condition=None) -> Tensor:
            signal = float(signal_at(schedule, time)[0])
            with torch.enable_grad():
                x = x_t.flatten(1)
                x = x if x.requires_grad else x.detach().requires_grad_()
                log_p = self.noisy(signal).log_prob(x).sum()
                (score,) = torch.autograd.grad(log_p, x, create_graph=True)
            return -math.sqrt(1 - signal) * score.view_as(x_t)

        return Diffusion(network, schedule, data=Continuous(), shape=SHAPE).eval()


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_gaussian_density(prediction, generator):
    schedule = NoiseSchedule.linear(1000)
    x_0 = STD * torch.randn(200, *SHAPE, generator=generator, dtype=torch.float64)
    found = flow.log_likelihood(
        gaussian_flow(schedule, None, prediction), x_0, trace="exact", **TIGHT
    )
    # By closed form: the state at level 1 is N(0, ᾱ STD² + 1 − ᾱ), read at √ᾱ x_0. What is left is
    # the prior, N(0, I) in place of x_T's own.
    signal = schedule.alphas_cumprod[[1, -1]]
    first, last = (signal * STD**2 + 1 - signal).sqrt().tolist()
    x_1 = signal[0].sqrt() * x_0
    x_T = last / first * x_1
    exact = (
        (
            Normal(0.0, first).log_prob(x_1)
            + 0.5 * signal[0].log()
            + Normal(0.0, 1.0).log_prob(x_T)
            - Normal(0.0, last).log_prob(x_T)
        )
        .flatten(1)
        .sum(1)
    )
    torch.testing.assert_close(found.log_likelihood, exact, rtol=0, atol=1e-4)

    true = Normal(0.0, STD).log_prob(x_0).flatten(1).sum(1)
    assert abs(found.log_likelihood.mean() / true.mean() - 1) < 0.005
    bits = -found.log_likelihood / (4 * math.log(2))
    torch.testing.assert_close(found.bits_per_dim, bits)
    assert found.evaluations < 400


def test_mixture_density(generator):
    # With next to no signal left at x_T, N(0, I) is its density to the digits compared.
    mixture, schedule = Mixture(), NoiseSchedule.geometric(1000, last_signal=1e-8)
    data = mixture.noisy(1.0).sample((20,)).view(20, *SHAPE)
    found = flow.log_likelihood(mixture.model(schedule), data, trace="exact", rtol=1e-5, atol=1e-5)
    signal = float(schedule.alphas_cumprod[1])
    x_1 = math.sqrt(signal) * data.flatten(1)
    exact = mixture.noisy(signal).log_prob(x_1) + 2 * math.log(signal)
    torch.testing.assert_close(found.log_likelihood, exact, rtol=0, atol=1e-3)
    true = mixture.noisy(1.0).log_prob(data.flatten(1))
    assert abs((found.log_likelihood - true).mean()) < 0.02


@pytest.mark.parametrize("trace", ["rademacher", "normal"])
def test_hutchinson_is_unbiased(trace, generator):
    mixture, schedule = Mixture(), NoiseSchedule.linear(100, 1e-3, 0.15)
    model = mixture.model(schedule)
    one = mixture.noisy(1.0).sample((1,)).view(1, *SHAPE)
    options = {"rtol": 1e-4, "atol": 1e-4}
    exact = flow.log_likelihood(model, one, trace="exact", **options).log_likelihood
    many = flow.log_likelihood(
        model, one.expand(2000, *SHAPE), trace=trace, generator=generator, **options
    ).log_likelihood
    error = many.std().item() / math.sqrt(len(many))
    assert many.std() > 0.02  # there is noise to average
    assert abs(many.mean().item() - exact.item()) < 4 * error + 2e-3

    averaged = flow.log_likelihood(
        model, one.expand(500, *SHAPE), trace=trace, probes=8, generator=generator, **options
    ).log_likelihood
    assert averaged.std() < 0.6 * many.std()


@pytest.mark.parametrize("kind", ["decoder", "truncated_normal", "uniform"])
def test_dequantised_likelihood_is_a_lower_bound_on_the_flow_s_own_probability(kind, generator):
    """E over draws of exp(log-weight + log-density) is P(x_0), integrated here by hand."""
    schedule = NoiseSchedule.geometric(200, first_noise=0.1)
    model = gaussian_flow(schedule, Pixels(9))
    x_0 = Pixels(9).to_network(torch.tensor([4, 5, 2, 6]).view(1, *SHAPE)).double()
    found = flow.log_likelihood(
        model, x_0.expand(4000, *SHAPE), dequantization=kind, trace="exact", rtol=1e-4, atol=1e-4,
        generator=generator,
    ).log_likelihood  # fmt: skip
    # The flow's density at level 1 is N(0, v); P(x_0) integrates p(x_0|z) under it.
    signal = float(schedule.alphas_cumprod[1])
    std = math.sqrt(signal * STD**2 + 1 - signal)
    if kind == "decoder":
        z = torch.linspace(-6, 6, 40_001, dtype=torch.float64)
        sigma = math.sqrt(float(schedule.posterior_variance[2]))
        mean = math.sqrt(signal) * STD**2 / (signal * STD**2 + 1 - signal) * z
        inside = [
            torch.trapezoid((DiscretizedNormal(mean, sigma, 9).log_prob(v).exp()
                             * Normal(0.0, std).log_prob(z).exp()), z)
            for v in x_0.flatten()
        ]  # fmt: skip
        probability = torch.stack(inside).log().sum().item()
    else:
        edges = [math.sqrt(signal) * (x_0 + side / 8) for side in (-1, 1)]
        low, high = (Normal(0.0, std).cdf(edge) for edge in edges)
        probability = (high - low).log().sum().item()
    mean, error = found.mean().item(), found.std().item() / math.sqrt(len(found))
    assert mean < probability + 3 * error
    weights = (found - probability).exp()
    spread = weights.std().item() / math.sqrt(len(weights))
    assert abs(weights.mean().item() - 1) < 4 * spread + 0.01


def test_more_draws_tighten_the_bound(generator):
    model = gaussian_flow(NoiseSchedule.geometric(200, first_noise=0.1), Pixels(9))
    x_0 = Pixels(9).to_network(torch.tensor([4, 5, 2, 6]).view(1, *SHAPE)).double()
    bounds = []
    for draws in (1, 4):
        found = flow.log_likelihood(
            model, x_0.expand(500, *SHAPE), trace="exact", draws=draws, rtol=1e-3, atol=1e-3,
            generator=generator,
        )  # fmt: skip
        bounds.append(found)
    one, four = (bound.log_likelihood for bound in bounds)
    assert four.mean() - one.mean() > 4 * one.std() / math.sqrt(500)
    assert bounds[1].evaluations > 3 * bounds[0].evaluations


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("data", [Pixels(3), Continuous()])
def test_data_of_half_precision_flow_as_in_float32(data, dtype):
    """What both hold exactly, by the same draws; flows of 16 bits were off by tenths of a nat."""
    model = gaussian_flow(NoiseSchedule.linear(100, 1e-3, 0.2), data=data)
    x = torch.tensor([-1.0, 0.0, 1.0, 1.0]).view(1, *SHAPE)
    options = {"dequantization": "uniform"} if isinstance(data, Pixels) else {}

    def found(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        pair = flow, likelihood
        return torch.cat(
            [
                each.log_likelihood(model, x, generator=generator, **options).log_likelihood
                for each in pair
            ]
        )

    torch.testing.assert_close(found(x.to(dtype)), found(x), rtol=1e-6, atol=0)
    latent = flow.encode(model, x.to(dtype))
    torch.testing.assert_close(latent, flow.encode(model, x))


def test_encode_and_decode_are_inverse(generator):
    model = gaussian_flow(NoiseSchedule.linear(1000))
    x_1 = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)
    x_T = flow.encode(model, x_1, **TIGHT)
    signal = model.schedule.alphas_cumprod[[1, -1]]
    first, last = (signal * STD**2 + 1 - signal).sqrt().tolist()
    torch.testing.assert_close(x_T, last / first * x_1, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(flow.decode(model, x_T, **TIGHT), x_1, rtol=1e-4, atol=1e-4)


def test_clipped_model_flows_by_its_clipped_prediction(generator):
    """Where all of x̂_0 is clipped, the flow only rescales: tr ∂x̂_0/∂x = 0."""
    schedule = NoiseSchedule.linear(100, 1e-3, 0.15)

    def network(x_t: Tensor, time: Tensor, condition=None) -> Tensor:
        return 5 + x_t

    model = Diffusion(
        network, schedule, prediction="sample", data=Continuous(), shape=SHAPE, clip_sample=True
    ).eval()
    x_0 = torch.ones(2, *SHAPE, dtype=torch.float64)
    found = flow.log_likelihood(model, x_0, trace="exact", **TIGHT).log_likelihood
    # All data at 1: x_t is N(a, s²), and the flow keeps (x − a)/s, here 0 at level 1.
    a, s = schedule.signal_scale[[1, -1]], schedule.noise_scale[[1, -1]]
    exact = 4 * (Normal(0.0, 1.0).log_prob(a[1]) + (s[1] / s[0]).log() + a[0].log())
    torch.testing.assert_close(found, exact.expand(2), rtol=0, atol=1e-3)


def test_wrong_options_are_explained(generator):
    model = gaussian_flow(NoiseSchedule.linear(100, 1e-3, 0.15))
    x_0 = torch.zeros(1, *SHAPE)
    for options, message in [
        ({"trace": "hutch"}, "unknown trace 'hutch'"),
        ({"method": "euler"}, "unknown method 'euler'"),
        ({"dequantization": "dither"}, "unknown dequantization 'dither'"),
        ({"dequantization": "uniform"}, "without levels"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"probes": 0}, "probes must be at least 1, got 0"),
        ({"draws": 4}, "is no lower bound"),
        ({"rtol": 0.0}, "rtol and atol must be positive"),
        ({"atol": 0.0}, "rtol and atol must be positive"),
        ({"noise_scale": 1e-9}, "noise_scale must lie between"),
        ({"dequantization": "decoder", "noise_scale": 0.1}, "starts at level 1"),
    ]:
        with pytest.raises(NelboError, match=message):
            flow.log_likelihood(model, x_0, **options)
    pixels = gaussian_flow(NoiseSchedule.linear(100, 1e-3, 0.15), Pixels(9))
    with pytest.raises(NelboError, match="which are no real numbers"):
        flow.log_likelihood(pixels, x_0, dequantization="none")
    large = Diffusion(model.network, model.schedule, data=Continuous())
    with pytest.raises(NelboError, match="at most 1,024 dimensions, the data have 3,072"):
        flow.log_likelihood(large, torch.zeros(1, 3, 32, 32), trace="exact")
    with pytest.raises(NelboError, match="at least two levels with signal"):
        flow.encode(model.respace([5]), x_0)
    assert flow.encode(model.respace([5, 60]), x_0).shape == x_0.shape
    for states, message in [
        (torch.zeros(2, 1, 2, 3), r"x_T has shape \(2, 1, 2, 3\), expected \(2, 1, 2, 2\)"),
        (torch.zeros(0, *SHAPE), "x_T is a batch of no states"),
    ]:
        with pytest.raises(NelboError, match=message):
            flow.decode(model, states)


class Mixing(torch.nn.Module):
    """A linear prediction of x_0 that mixes pixels, and how often it was called."""

    matrix = torch.tensor([[0.4, 0.3, 0, -0.2], [0.1, 0.2, 0.5, 0], [0, 0.3, 0.1, 0.2], [0.2] * 4])

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x_t: Tensor, time: Tensor, condition=None) -> Tensor:
        self.calls += 1
        return (x_t.flatten(1) @ self.matrix.to(x_t).T).view_as(x_t)


def mixing(data=None) -> Diffusion:
    schedule = NoiseSchedule.linear(20, 0.01, 0.2)
    options = {"prediction": "sample", "data": data or Continuous(), "shape": SHAPE}
    return Diffusion(Mixing(), schedule, **options).eval()


@pytest.mark.parametrize("data", [Continuous(), Pixels(9)])
@pytest.mark.parametrize("draws", [1, 3])
def test_evaluations_are_the_calls_of_the_network(data, draws):
    model = mixing(data)
    found = flow.log_likelihood(model, torch.zeros(2, *SHAPE), trace="exact", draws=draws)
    assert found.evaluations == model.network.calls


def test_several_draws_are_averaged_as_probabilities():
    """Those that a single draw each would take of the same generator."""
    model, options = mixing(Pixels(9)), {"trace": "exact", "dequantization": "uniform"}
    x_0 = torch.zeros(2, *SHAPE).double()
    source = torch.Generator().manual_seed(4)
    each = [
        flow.log_likelihood(model, x_0, generator=source, **options).log_likelihood
        for _ in range(3)
    ]
    source.manual_seed(4)
    found = flow.log_likelihood(model, x_0, generator=source, draws=3, **options)
    expected = torch.stack(each).exp().mean(0).log()
    torch.testing.assert_close(found.log_likelihood, expected)


def test_only_the_estimate_of_a_trace_is_drawn():
    model, x_0 = mixing(), torch.rand(1, *SHAPE).double()

    def found(seed: int, trace: str) -> float:
        generator = torch.Generator().manual_seed(seed)
        return flow.log_likelihood(
            model, x_0, trace=trace, generator=generator
        ).log_likelihood.item()

    assert found(0, "exact") == found(1, "exact")
    for trace in ("rademacher", "normal"):
        assert abs(found(0, trace) - found(1, trace)) > 1e-3


def test_signs_alone_know_a_diagonal_exactly():
    """eᵀ J e is the trace of a diagonal J where all e² are 1."""
    model, x_0 = gaussian_flow(NoiseSchedule.linear(50, 1e-3, 0.2)), torch.rand(1, *SHAPE).double()
    exact, signs, normal = (
        flow.log_likelihood(model, x_0, trace=trace).log_likelihood.item() for trace in TRACES
    )
    assert signs == pytest.approx(exact, abs=1e-6)
    assert abs(normal - exact) > 1e-3


def test_the_exact_trace_is_for_few_dimensions(monkeypatch):
    monkeypatch.setattr(flow, "MAX_EXACT_DIMS", 4)
    model, x_0 = mixing(), torch.zeros(1, *SHAPE)
    assert flow.log_likelihood(model, x_0, trace="exact").dims == 4
    monkeypatch.setattr(flow, "MAX_EXACT_DIMS", 3)
    with pytest.raises(NelboError, match="at most 3 dimensions, the data have 4"):
        flow.log_likelihood(model, x_0, trace="exact")
    assert flow.log_likelihood(model, x_0).dims == 4


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(MissingExtraError, match=r"nelbo\[flow\]"):
        flow.log_likelihood(gaussian_flow(NoiseSchedule.linear(100)), torch.zeros(1, *SHAPE))
