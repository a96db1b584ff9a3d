"""The bound in continuous time, its limit, and what each part of the schedule learns from."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from nelbo import Continuous, Diffusion, NelboError, NoiseSchedule, Pixels
from nelbo.diffusion.continuous import SQUARE_WEIGHT, ContinuousDiffusion
from nelbo.diffusion.learned_schedule import LearnedSchedule
from nelbo.diffusion.level_samplers import level_probabilities
from nelbo.diffusion.objectives import BatchPart
from tests.diffusion.test_learned_schedule import randomly_shaped
from tests.diffusion.test_model import SHAPE, Network, pixels
from tests.oracles.gaussian import expected_terms

STD = 0.5
ENDS = (-6.0, 6.0)


class ExactEpsilon(nn.Module):
    """E[ε | x_t] of N(0, STD²) data for a network that knows the noise at its time."""

    def __init__(self, gamma: LearnedSchedule, T: int) -> None:
        super().__init__()
        object.__setattr__(self, "gamma", gamma)  # not a parameter of the network
        self.T = T

    def forward(self, x_t, time, condition=None):
        noise = torch.sigmoid(self.gamma(time.to(x_t.dtype) / (self.T - 1))).view(-1, 1, 1, 1)
        return noise.sqrt() * x_t / ((1 - noise) * STD**2 + noise)


def gaussian(gamma: LearnedSchedule, T: int = 200) -> ContinuousDiffusion:
    chain = gamma.discretize(T)
    network = ExactEpsilon(gamma, T)
    options = {"variance": "fixed_large", "data": Continuous(), "shape": (1, 2, 2)}
    return ContinuousDiffusion(Diffusion(network, chain, **options), gamma)


def integral(first: float, last: float) -> float:
    """½ ∫ Var[ε | x_t] dγ a dimension, where Var[ε | x_t] = sigmoid(log STD² − γ)."""
    softplus = [math.log1p(math.exp(2 * math.log(STD) - end)) for end in (first, last)]
    return 0.5 * (softplus[0] - softplus[1])


def test_on_gaussian_data_the_terms_are_those_of_the_closed_form(generator):
    gamma = randomly_shaped(0, *ENDS)
    x_0 = STD * torch.randn(20_000, 1, 2, 2, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        mean = gaussian(gamma).elbo(x_0, levels=8, generator=generator).mean()
    signal, noise = (1 / (1 + math.exp(sign * ENDS[0])) for sign in (1, -1))
    error = 1 / (1 / STD**2 + signal / noise)  # Var[x_0 | x_1]
    last = 1 / (1 + math.exp(ENDS[1]))
    expected = {
        "reconstruction": 0.5 * (math.log(2 * math.pi * noise) + error / noise),
        "prior_matching": 0.5 * (last * STD**2 - last - math.log(1 - last)),
        "score_matching": integral(*ENDS),
    }
    for name, value in expected.items():
        found = mean.costs[name]
        assert abs(found.mean - 4 * value) < 4 * found.standard_error
        assert found.standard_error < 0.02 * abs(4 * value)


def test_it_is_the_limit_of_the_chains_bound_and_never_worse():
    gamma = randomly_shaped(1, *ENDS)
    for variance in ("fixed_small", "fixed_large"):
        gaps = []
        for T in (50, 100, 200, 400, 800):
            chain = gamma.discretize(T)
            *_, terms = expected_terms(STD, chain.betas[1:], variance)
            gaps.append(terms.sum().item() - integral(*ENDS))
        assert min(gaps) > 0
        assert [a / b for a, b in itertools.pairwise(gaps)] == pytest.approx([2.0] * 4, rel=0.15)
    # and what the exported chain says is this closed form
    model = gaussian(gamma, 50).chain()
    x_0 = STD * torch.randn(4000, 1, 2, 2, generator=torch.manual_seed(0), dtype=torch.float64)
    found = model.elbo(x_0).mean()
    reconstruction, prior, terms = expected_terms(STD, model.schedule.betas[1:], "fixed_large")
    for name, value in {
        "reconstruction": -reconstruction,
        "prior_matching": prior,
        "score_matching": terms.sum().item(),
    }.items():
        cost = found.costs[name]
        assert abs(cost.mean - 4 * value) < 4 * cost.standard_error


@pytest.mark.parametrize("seed", range(3))
def test_only_the_ends_of_the_schedule_matter(seed):
    """A denoiser that is off by the same x_0 everywhere costs ½ (SNR_0 − SNR_1) of its square."""
    gamma = randomly_shaped(seed, *ENDS)
    options = {"prediction": "sample", "variance": "fixed_large", "data": Continuous()}
    network = lambda x_t, time, condition=None: torch.full_like(x_t, 0.3)  # noqa: E731
    model = ContinuousDiffusion(Diffusion(network, gamma.discretize(150), **options), gamma)
    x_0 = torch.tensor([0.1, 0.8], dtype=torch.float64).view(2, 1, 1, 1)
    with torch.no_grad():
        bound = model.elbo(x_0, generator=torch.Generator().manual_seed(seed))
    expected = 0.5 * (x_0.flatten() - 0.3) ** 2 * (math.exp(-ENDS[0]) - math.exp(-ENDS[1]))
    torch.testing.assert_close(bound.total_score_matching, expected, rtol=2e-2, atol=0)
    assert bound.levels[0].tolist() == list(range(2, 151))


def learned(T: int = 40, variance: str = "learned_range", **options) -> ContinuousDiffusion:
    """Some network of pixels, which does not know the noise."""
    gamma = randomly_shaped(5, -4.0, 5.0)
    network = Network(2 if variance == "learned_range" else 1)
    options = {"prediction": "v_prediction", "clip_sample": True, **options}
    model = Diffusion(
        network,
        gamma.discretize(T),
        variance=variance,
        data=Pixels(17),
        shape=SHAPE,
        **options,
    )
    return ContinuousDiffusion(model, gamma)


@pytest.mark.parametrize("variance", ["learned_range", "fixed_large"])
def test_at_its_levels_it_is_the_chain(variance):
    """Reconstruction, prior and learned variance as the exported chain has them."""
    model = learned(variance=variance)
    chain, x_0 = model.chain(), pixels(12)
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1), dtype=x_0.dtype)
    t = torch.tensor([1, 2, 3, 17, 39, 40] * 2)
    # At the end of what a level stands for, its own time.
    at = model._at(x_0, t, torch.ones(12, dtype=x_0.dtype), noise, None)
    x_t = chain.diffuse(x_0, noise, t)
    prediction = chain.predict(x_t, t)
    assert torch.equal(model.model.network.times[0], (t - 1).double())
    terms = chain.level_term(prediction, x_0, t)
    torch.testing.assert_close(at.terms[t == 1], terms[t == 1], rtol=1e-5, atol=0)
    torch.testing.assert_close(
        model.prior_matching(x_0), chain.prior_matching(x_0), rtol=1e-5, atol=0
    )
    if variance == "learned_range":
        torch.testing.assert_close(at.variance_terms[t > 1], terms[t > 1], rtol=1e-5, atol=0)
        assert (at.variance_terms[t == 1] == 0).all()


def test_the_network_is_told_of_times_between_those_of_the_chain():
    model = learned(T=40)
    t = torch.arange(1, 41)
    place = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x_0 = pixels(40)
    model._at(x_0, t, place, torch.zeros_like(x_0), None)
    (told,) = model.model.network.times
    assert told[0] == 0
    torch.testing.assert_close(told[1:], torch.arange(39) + place[1:])


def test_reading_of_the_bound_is_unbiased_and_near_that_of_a_long_chain(generator):
    model = learned(T=400)
    x_0 = pixels(1).expand(20_000, *SHAPE)
    with torch.no_grad():
        read = model(x_0, generator=generator).nelbo
        whole = model.elbo(x_0[:400], levels=20, generator=generator).nelbo
        chain = model.chain().elbo(x_0[:400], levels=20, generator=generator).nelbo
    error = math.sqrt(read.var() / len(read) + whole.var() / len(whole))
    assert abs(read.mean() - whole.mean()) < 3 * error
    assert error < 0.04 * whole.mean()
    error = math.sqrt((whole.var() + chain.var()) / 400)
    assert abs(chain.mean() - whole.mean()) < 3 * error < 0.1 * whole.mean()


def differences(f, parameters, h=1e-5):
    """Central finite differences of a scalar in every number of the parameters."""
    found = []
    for p in parameters:
        gradient = torch.zeros_like(p)
        for i in range(p.numel()):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    p.view(-1)[i] += sign * h
                    values.append(f())
                    p.view(-1)[i] -= sign * h
            gradient.view(-1)[i] = (values[0] - values[1]) / (2 * h)
        found.append(gradient)
    return found


def test_the_ends_learn_from_the_bound_and_the_shape_from_its_square():
    model = learned(clip_sample=False, variance="fixed_large")
    # steps of γ enter only level 1, whose range of a learned variance the next test reads
    x_0 = pixels(10)
    weight = 1 / level_probabilities(40, 0.1)

    def terms():
        return model(x_0, generator=torch.Generator().manual_seed(3))

    def mean_square():
        found = terms()
        one_level = weight[found.levels - 1] * found.level_losses
        assert (found.levels == 1).any()
        squares = torch.where(found.levels > 1, one_level, 0.0).square()
        return SQUARE_WEIGHT * squares.mean() / x_0[0].numel()

    gamma = model.gamma
    ends = [gamma.first, gamma.raw_span]
    shape = [gamma.log_weight, gamma.log_steepness, gamma.center]
    terms().loss.backward()
    # float32 weights 1/π are what is left of a difference
    for p, expected in zip(ends, differences(lambda: terms().loss, ends), strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=1e-5, atol=1e-7)
    for p, expected in zip(shape, differences(mean_square, shape), strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


class MeanAndVariance(nn.Module):
    """One parameter for the mean, one for the variance, which does not look at x_t."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.variance = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

    def forward(self, x_t, time, condition=None):
        fraction = torch.sin(time.to(x_t.dtype)).view(-1, 1, 1, 1)
        extra = self.variance * fraction.expand_as(x_t)
        return torch.cat([torch.tanh(self.mean * x_t), extra], 1)


def test_a_learned_variance_learns_from_the_chains_terms_and_nothing_else_does():
    model = learned()
    network = model.model.network = MeanAndVariance()
    chain, x_0 = model.chain(), pixels(5)
    found = model(x_0, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found.loss, found.nelbo.mean())

    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1), dtype=x_0.dtype)
    t = torch.tensor([2, 3, 17, 39, 40])
    at = model._at(x_0, t, torch.ones(5, dtype=x_0.dtype), noise, None)
    parameters = [network.variance, network.mean, *model.gamma.parameters()]
    gradients = torch.autograd.grad(at.variance_terms.sum(), parameters, allow_unused=True)
    terms = chain.level_term(chain.predict(chain.diffuse(x_0, noise, t), t), x_0, t)
    (expected,) = torch.autograd.grad(terms.sum(), network.variance)
    torch.testing.assert_close(gradients[0], expected, rtol=1e-5, atol=0)
    assert all(g is None or not g.any() for g in gradients[1:])


@pytest.mark.parametrize("ends", [ENDS, (-3.0, 8.0)])
def test_learning_the_shape_lowers_the_variance_of_the_estimate(ends):
    """On Gaussian data ℓ is γ' Var[ε|x_t] times a χ², and least variable where γ' Var is flat."""
    gamma = LearnedSchedule(*ends, learn_ends=False).double()
    model = gaussian(gamma)
    times = torch.linspace(0, 1, 2001, dtype=torch.float64)

    def excess() -> float:
        """E[(γ' Var)²] / E[γ' Var]², at least 1, by quadrature."""
        u, slope = gamma.shape(times)
        cost = slope * torch.sigmoid(2 * math.log(STD) - (ends[0] + (ends[1] - ends[0]) * u))
        return (torch.trapezoid(cost.square(), times) / torch.trapezoid(cost, times) ** 2).item()

    @torch.no_grad()
    def variance() -> float:
        generator = torch.Generator().manual_seed(7)
        x_0 = STD * torch.randn(10_000, 1, 2, 2, generator=generator, dtype=torch.float64)
        bound = model.elbo(x_0, levels=1, generator=generator)
        return bound.total_score_matching.var().item()

    at_first, spread_at_first = excess(), variance()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([p for p in gamma.parameters() if p.requires_grad], lr=4e-3)
    for _ in range(75):
        x_0 = STD * torch.randn(64, 1, 2, 2, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        model(x_0, generator=generator).loss.backward()
        optimizer.step()
    assert at_first > 1.4
    assert excess() - 1 < 0.25 * (at_first - 1)
    assert variance() < 0.8 * spread_at_first
    assert gamma(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist() == pytest.approx(ends)


@pytest.mark.parametrize("variance", ["learned_range", "fixed_large"])
def test_every_part_of_a_batch_touches_every_parameter(variance):
    """Processes that average gradients wait for all of them, whatever levels they drew."""
    model = learned(variance=variance)
    x_0 = pixels(20)
    alone = copy.deepcopy(model)
    alone(x_0, generator=torch.Generator().manual_seed(0)).loss.backward()
    seen = set()
    for i in range(20):
        part = BatchPart(i, i + 1, 20)
        model.zero_grad()
        terms = model(x_0[part.slice], generator=torch.Generator().manual_seed(0), part=part)
        (terms.loss / 20).backward()
        assert all(p.grad is not None for p in model.parameters())
        seen.add(int(terms.levels[0]) == 1)
        for total, p in zip(alone.parameters(), model.parameters(), strict=True):
            total.grad -= p.grad
    assert seen == {True, False}
    for p in alone.parameters():
        assert p.grad.abs().max() < 1e-6


def test_its_schedule_is_made_where_the_network_is():
    network = nn.Conv2d(1, 1, 1, device="meta")
    model = ContinuousDiffusion(Diffusion(network, NoiseSchedule.linear(9), variance="fixed_large"))
    assert {p.device.type for p in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("variance", "T", "message"),
    [
        ("fixed_small", 12, "needs variance learned_range or fixed_large.*got 'fixed_small'"),
        ("fixed_large", 1, "two levels or more, got levels=1"),
    ],
)
def test_what_has_no_limit(variance, T, message):
    model = Diffusion(Network(), NoiseSchedule.linear(T), variance=variance)
    with pytest.raises(NelboError, match=message):
        ContinuousDiffusion(model)


@pytest.mark.parametrize("levels", [None, 3])
def test_the_calls_of_its_bound_are_those_of_the_network(levels):
    model, x_0 = learned(T=6), pixels(7)
    bound = model.elbo(x_0, levels=levels, generator=torch.Generator().manual_seed(0))
    made = sum(len(time) for time in model.model.network.times)
    assert bound.calls.tolist() == [made / 7] * 7
