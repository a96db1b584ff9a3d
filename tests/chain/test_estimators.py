"""Estimators of the bound: unbiased, with errors that are what they claim."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from nelbo import Bound, NelboError, NoiseSchedule
from nelbo.chain.bound import BoundMap
from nelbo.chain.estimators import (
    EveryLevel,
    FirstLevel,
    Importance,
    Stratified,
    Uniform,
    proposal_from,
)
from nelbo.chain.variances import variance_of_mean, variance_of_sum
from nelbo.data import ImageData
from nelbo.diffusion import Diffusion, Pixels
from nelbo.evidence.evaluation import evaluate_to_error
from tests.oracles.gaussian import gaussian_model

T = 40
STD = 0.5
SKILL = 0.8
DIMS = 4
STEEP = torch.linspace(3.0, 0.1, T - 1, dtype=torch.float64)
PROPOSAL = STEEP / STEEP.sum()

ESTIMATORS = {
    "every level": EveryLevel(),
    "uniform": Uniform(6),
    "uniform, odd": Uniform(5),
    "stratified": Stratified(6),
    "stratified, odd": Stratified(7),
    "importance": Importance(6, PROPOSAL),
    "importance, odd": Importance(3, PROPOSAL, reconstructions=3),
    "antithetic": Importance(4, PROPOSAL, antithetic=True),
}


@pytest.fixture(scope="module")
def model() -> Diffusion:
    return gaussian_model(STD, NoiseSchedule.linear(T, 0.005, 0.3), "fixed_large", skill=SKILL)


def exact_terms(model: Diffusion, x_0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """E[log p(x_0|x_1)] (B,) and E KL_t (B, T-1) of the shrunk denoiser, by hand in float64.

    Its x̂_0 is linear in the noise, x̂_0 − x_0 = u x_0 + w ε, so E(x̂_0 − x_0)² = u² x_0² + w².
    """
    betas = model.schedule.betas[1:]
    signal = torch.cumprod(1 - betas, 0)
    previous = torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])
    # ε̂ = g x_t, so x̂_0 = (1 − √(1 − ᾱ) g) x_t / √ᾱ
    g = SKILL * (1 - signal).sqrt() / (signal * STD**2 + 1 - signal)
    shrink = 1 - (1 - signal).sqrt() * g
    u, w = shrink - 1, shrink * ((1 - signal) / signal).sqrt()
    error = u**2 * x_0.flatten(1).square().sum(1)[:, None] + w**2 * DIMS
    reconstruction = -0.5 * (DIMS * torch.log(2 * math.pi * betas[0]) + error[:, 0] / betas[0])
    posterior = betas * (1 - previous) / (1 - signal)
    weight = previous.sqrt() * betas / (1 - signal)
    ratio = posterior / betas
    kl = 0.5 * (weight**2 * error / betas + DIMS * (ratio - 1 - torch.log(ratio)))
    return reconstruction, kl[:, 1:]


def part_of(bound: Bound, rows: torch.Tensor) -> Bound:
    tensors = {f.name: getattr(bound, f.name) for f in dataclasses.fields(bound)}
    return Bound(**{name: x if name == "dims" else x[rows] for name, x in tensors.items()})


@pytest.mark.parametrize("name", ESTIMATORS)
def test_unbiased_and_the_variance_is_what_the_draws_say(name, model, generator):
    x_0 = STD * torch.randn(1, 1, 2, 2, generator=generator, dtype=torch.float64)
    many = x_0.expand(8_000, -1, -1, -1)
    bound = model.elbo(many, levels=ESTIMATORS[name], generator=generator)
    reconstruction, kl = exact_terms(model, x_0)
    for values, expected in (
        (bound.reconstruction, reconstruction.item()),
        (bound.total_score_matching, kl.sum().item()),
    ):
        assert abs(values.mean().item() - expected) < 4 * values.std().item() / math.sqrt(8_000)
    claimed = bound.monte_carlo_variance.mean().item() / bound.elbo.var().item()
    if name.startswith("uniform"):
        assert claimed == pytest.approx(1.0, abs=0.12)
    else:  # neighbouring strata differ in their means
        assert 0.9 < claimed < 4
    # what strata differ by in all images alike is taken out of the error of a mean
    error = bound.mean().elbo.monte_carlo_error
    assert error == pytest.approx(bound.elbo.std().item() / math.sqrt(8_000), rel=0.1)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_interval_of_95_percent_holds_the_exact_value(name, model, generator):
    images, repetitions = 50, 200
    x_0 = STD * torch.randn(images, 1, 2, 2, generator=generator, dtype=torch.float64)
    reconstruction, kl = exact_terms(model, x_0)
    exact = (reconstruction - model.prior_matching(x_0) - kl.sum(1)).mean().item()
    many = x_0.repeat(repetitions, 1, 1, 1)
    bound = model.elbo(many, levels=ESTIMATORS[name], generator=generator)
    inside = 0
    for rows in torch.arange(len(many)).split(images):
        elbo = part_of(bound, rows).mean().elbo
        inside += abs(elbo.mean - exact) <= 1.96 * elbo.monte_carlo_error
    assert 0.90 <= inside / repetitions <= 0.99


def test_rounds_merge_without_bias_and_count_by_their_calls(model, generator):
    x_0 = STD * torch.randn(1, 1, 2, 2, generator=generator, dtype=torch.float64)
    many = x_0.expand(8_000, -1, -1, -1)
    rounds = [
        model.elbo(many, levels=estimator, generator=generator)
        for estimator in (
            Importance(2, PROPOSAL),
            Importance(5, PROPOSAL, reconstructions=0),
            Uniform(1, reconstructions=3),
        )
    ]
    merged = Bound.merge(rounds)
    reconstruction, kl = exact_terms(model, x_0)
    exact = (reconstruction - model.prior_matching(x_0) - kl.sum(1)).item()
    assert abs(merged.elbo.mean().item() - exact) < 4 * merged.elbo.std().item() / math.sqrt(8_000)
    assert merged.calls.unique().tolist() == [13]
    assert merged.levels.shape == (8_000, 8)
    expected = sum(b.total_score_matching * k for b, k in zip(rounds, (2, 5, 1), strict=True)) / 8
    torch.testing.assert_close(merged.total_score_matching, expected)
    expected = (2 * rounds[0].reconstruction + 3 * rounds[2].reconstruction) / 5
    torch.testing.assert_close(merged.reconstruction, expected)
    assert merged.mean().elbo.monte_carlo_error == pytest.approx(
        merged.elbo.std().item() / math.sqrt(8_000), rel=0.1
    )
    with pytest.raises(NelboError, match="same examples"):
        Bound.merge([rounds[0], model.elbo(many[:3], levels=2)])
    with pytest.raises(NelboError, match="at least one"):
        Bound.merge([])


@pytest.mark.parametrize("values", [1, 25, 60])
@pytest.mark.parametrize("name", ["every level", "stratified, odd", "antithetic"])
def test_terms_are_the_same_however_many_share_a_call(name, values, model, monkeypatch):
    x_0 = STD * torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    sizes, network = [], model.network

    def found() -> BoundMap:
        sizes.clear()
        seeded = torch.Generator().manual_seed(1)
        return model.bound_map(x_0, levels=ESTIMATORS[name], generator=seeded)

    monkeypatch.setattr(
        model, "network", lambda x, *rest: (sizes.append(len(x)), network(x, *rest))[1]
    )
    together = found()
    monkeypatch.setattr("nelbo.chain.terms.VALUES_PER_CALL", values)
    apart = found()
    torch.testing.assert_close(apart.nats, together.nats)
    for (_, one), (_, other) in zip(apart.bound.tensors(), together.bound.tensors(), strict=True):
        torch.testing.assert_close(one, other)
    # A column of the three examples, or its mirrored pair, is the least that can share one.
    least = 6 if name == "antithetic" else 3
    assert max(sizes) == max(least, values // (least * DIMS) * least)


def test_stratified_levels_take_one_from_each_stratum(generator):
    levels, weights = Stratified(13).choose(500, T, generator)
    stratum = (levels - 2) // 3
    assert torch.equal(stratum, torch.arange(13).expand(500, -1))
    assert weights.unique().tolist() == [3.0]
    assert levels.unique().tolist() == list(range(2, T + 1))


@pytest.mark.parametrize("estimator", [Uniform(3), Stratified(3), Importance(3, torch.ones(1))])
def test_a_chain_of_two_levels_has_one_to_draw(estimator):
    levels, weights = estimator.choose(2, 2)
    assert levels.tolist() == [[2, 2, 2]] * 2
    torch.testing.assert_close(weights, torch.full((2, 3), 1 / 3, dtype=torch.float64))


def test_a_chain_of_one_level_has_none_to_draw():
    for estimator in (Uniform(3), Stratified(3), EveryLevel(), FirstLevel()):
        levels, weights = estimator.choose(2, 1)
        assert levels.shape == weights.shape == (2, 0)
    assert FirstLevel().choose(2, 9).levels.shape == (2, 0)


def test_the_largest_uniform_number_stays_in_the_chain(monkeypatch):
    """Added to the number of a stratum it rounds up, to the end of the last one."""
    largest = 1 - 2.0**-53
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, largest).double())
    assert Stratified(2).choose(1, 9).levels.max() == 9
    assert Importance(2, torch.full((8,), 1 / 8)).choose(1, 9).levels.max() == 9


def test_a_proposal_may_be_uniform_and_nothing_beyond():
    square = torch.tensor([0.0, 0.0, 1.0, 4.0])
    assert proposal_from(square, 1.0).tolist() == [0.5, 0.5]
    for share in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(NelboError, match="uniform_share must lie in"):
            proposal_from(square, share)
    with pytest.raises(NelboError, match="finite and not negative"):
        proposal_from(torch.tensor([0.0, 0.0, 1.0, -0.5]))


def test_levels_come_as_often_as_the_proposal_says(generator):
    levels, weights = Importance(4, PROPOSAL).choose(50_000, T, generator)
    share = torch.bincount(levels.flatten(), minlength=T + 1)[2:] / levels.numel()
    torch.testing.assert_close(share.double(), PROPOSAL, atol=2e-3, rtol=0.0)
    torch.testing.assert_close(weights, 1 / (4 * PROPOSAL[levels - 2]))


def test_a_proposal_follows_the_root_of_the_square_and_forgets_no_level():
    square = torch.zeros(12, dtype=torch.float64)
    square[5], square[6] = 4.0, 16.0
    proposal = proposal_from(square)
    expected = torch.full((10,), 0.01, dtype=torch.float64)
    expected[3] += 0.9 / 3
    expected[4] += 0.9 * 2 / 3
    torch.testing.assert_close(proposal, expected)
    torch.testing.assert_close(proposal_from(torch.zeros(12)), torch.full((10,), 0.1).double())


def test_the_least_variance_is_at_the_root_of_the_square(model, generator):
    """The proposal halves the variance of uniform levels on this chain, as its formula predicts."""
    x_0 = STD * torch.randn(1, 1, 2, 2, generator=generator, dtype=torch.float64)
    many = x_0.expand(8_000, -1, -1, -1)
    every = model.elbo(many, generator=generator)
    square = torch.zeros(T + 1, dtype=torch.float64)
    square[2:] = every.score_matching.square().mean(0)
    total = every.score_matching.mean(0).sum()
    predicted = {
        "uniform": (T - 1) * square.sum() - total**2,
        "importance": square.sqrt().sum() ** 2 - total**2,
    }
    proposal = proposal_from(square, 1e-6)
    for name, estimator in (("uniform", Uniform(1)), ("importance", Importance(1, proposal))):
        found = model.elbo(many, levels=estimator, generator=generator).total_score_matching.var()
        assert found.item() == pytest.approx(predicted[name].item(), rel=0.15)
    assert predicted["importance"] < 0.5 * predicted["uniform"]


@pytest.mark.filterwarnings("error")
def test_variance_of_a_mean_is_torch_s():
    draws = torch.randn(6, 5, dtype=torch.float64)
    torch.testing.assert_close(variance_of_mean(draws), draws.var(1) / 5)
    # Of one draw it is not known, which is no more than said.
    for variance in (variance_of_mean, variance_of_sum):
        assert variance(draws[:, :1]).isnan().all()
        assert variance(draws[:, :1]).shape == (6,)


class Shrinks(torch.nn.Module):
    """A network in form only, quick and different at every level."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.4))
        self.calls = 0

    def forward(self, x_t, time, condition=None):
        self.calls += len(x_t)
        return self.weight * x_t * (1 + time.view(-1, 1, 1, 1) / T)


def pixels(n: int, T: int = T) -> tuple[Diffusion, ImageData]:
    g = torch.Generator().manual_seed(1)
    images = torch.randint(0, 17, (n, 1, 4, 4), generator=g, dtype=torch.uint8)
    model = Diffusion(
        Shrinks(),
        NoiseSchedule.linear(T, 0.005, 0.3),
        variance="fixed_large",
        data=Pixels(17),
        shape=(1, 4, 4),
    )
    return model, ImageData("noise", images, 17, tuple(map(str, range(n))))


@pytest.mark.parametrize(
    ("n", "T", "error"), [(60, 40, 0.05), (1, 40, 0.3), (9, 5, 0.03), (5, 1, 0.05)]
)
def test_evaluation_stops_at_the_error_asked_for_and_counts_its_calls(n, T, error):
    model, data = pixels(n, T)
    readings = list(
        evaluate_to_error(model, data, error, generator=torch.Generator().manual_seed(2))
    )
    result, bits = readings[-1], readings[-1].bound.mean().bits_per_dim
    assert bits.monte_carlo_error <= error
    assert result.calls == result.planned == model.network.calls
    assert [r.calls for r in readings] == sorted(r.calls for r in readings)
    x_0 = model.data.to_network(data.images).repeat(40, 1, 1, 1)
    with torch.no_grad():
        exact = model.elbo(x_0, generator=torch.Generator().manual_seed(3)).bits_per_dim.mean()
    assert abs(bits.mean - exact.item()) < 4 * error


def test_the_error_asked_for_is_the_error_made():
    """Over 100 repetitions of a whole evaluation, with its pilot and its stopping rule."""
    model, data = pixels(24)
    x_0 = model.data.to_network(data.images).repeat(100, 1, 1, 1)
    with torch.no_grad():
        exact = model.elbo(x_0, generator=torch.Generator().manual_seed(0)).mean()
    inside, square = 0, 0.0
    for seed in range(100):
        g = torch.Generator().manual_seed(1000 + seed)
        *_, last = evaluate_to_error(model, data, 0.08, generator=g)
        bits = last.bound.mean().bits_per_dim
        inside += abs(bits.mean - exact.bits_per_dim.mean) <= 1.96 * bits.monte_carlo_error
        square += (bits.mean - exact.bits_per_dim.mean) ** 2 / 100
    assert exact.bits_per_dim.monte_carlo_error < 0.08 / 10
    assert 0.90 <= inside / 100 <= 0.99
    assert math.sqrt(square) < 0.08 * 1.1


def test_a_profile_takes_the_place_of_the_pilot():
    model, data = pixels(20)
    square = torch.ones(T + 1, dtype=torch.float64)
    readings = list(evaluate_to_error(model, data, 10.0, score_matching_square=square))
    # Beside what is reported there is the exploration of its 20 images, and no pilot.
    explored = readings[-1].calls - int(readings[-1].bound.calls.sum())
    assert readings[-1].calls == model.network.calls
    assert explored == 20 * (3 + 4)


@pytest.mark.parametrize("error", [0.0, -0.01, math.nan, math.inf])
def test_an_error_that_cannot_be_aimed_at(error):
    model, data = pixels(2)
    with pytest.raises(NelboError, match="target error must be positive"):
        next(evaluate_to_error(model, data, error))


def test_a_bound_that_is_not_finite_is_said_to_be_so():
    model, data = pixels(2)
    model.network.weight.data.fill_(math.inf)
    with pytest.raises(NelboError, match="finite"):
        list(evaluate_to_error(model, data, 0.1, score_matching_square=torch.ones(T + 1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stratified(0), "levels must be at least 1, got 0"),
        (lambda: Uniform(-2), "levels must be at least 1, got -2"),
        (lambda: EveryLevel(reconstructions=-1), "reconstructions must be at least 0, got -1"),
        (lambda: Importance(3, torch.tensor([0.5, 0.5, 0.0])), "positive probability"),
        (lambda: Importance(3, torch.tensor([0.5, 0.6])), "1.1 in all"),
        (lambda: Importance(3, PROPOSAL).choose(2, 9), "chain of 40 levels, this one has 9"),
        (lambda: proposal_from(torch.ones(9), 0.0), "uniform_share must lie in"),
        (lambda: proposal_from(torch.tensor([0.0, 0, 1, math.nan])), "finite"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(NelboError, match=message):
        make()
