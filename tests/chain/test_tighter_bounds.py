"""Importance-weighted bounds, and where the nats of a bound go."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from nelbo import Condition, Continuous, Diffusion, NelboError, NoiseSchedule, Pixels
from nelbo.chain.estimators import Importance
from nelbo.chain.terms import Draws
from tests.oracles.gaussian import gaussian_model

STD = 0.5
SHAPE = (1, 2, 2)


def test_importance_weighted_bound_rises_with_paths_towards_the_truth(generator):
    """A coarse chain with the exact denoiser: the truth is the marginal of its decoder."""
    model = gaussian_model(STD, NoiseSchedule.linear(5, 0.02, 0.9), "fixed_small", skill=0.8)
    x_0 = STD * torch.randn(1, *SHAPE, generator=generator, dtype=torch.float64)
    many = x_0.expand(4000, *SHAPE)
    # The decoder is linear and Gaussian: its marginal by its own recursion, a dimension.
    variance = torch.ones((), dtype=torch.float64)
    for t in range(5, 1, -1):
        step = model.p_step(torch.ones(1, 1, 1, 1, dtype=torch.float64), t)
        variance = step.mean.squeeze() ** 2 * variance + step.variance.squeeze()
    last = model.p_data(torch.ones(1, 1, 1, 1, dtype=torch.float64))
    variance = last.mean.squeeze() ** 2 * variance + last.variance.squeeze()
    truth = Normal(0.0, variance.sqrt()).log_prob(x_0).sum().item()

    bounds = [
        model.importance_weighted_elbo(many, paths=paths, generator=generator)
        for paths in (1, 4, 16, 64)
    ]
    means = [bound.mean().item() for bound in bounds]
    errors = [bound.std().item() / math.sqrt(len(bound)) for bound in bounds]
    for i in range(3):
        assert means[i + 1] - means[i] > 4 * math.hypot(errors[i], errors[i + 1])
    assert means[-1] < truth + 3 * errors[-1]
    assert truth - means[-1] < 0.5 * (truth - means[0])


def test_one_path_is_the_path_bound_and_paths_are_stacked(monkeypatch):
    model = gaussian_model(STD, NoiseSchedule.linear(4, 0.1, 0.5), "fixed_large")
    x_0 = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1)).double()

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(2)

    path = model.path_elbo(x_0, generator=seeded())
    one = model.importance_weighted_elbo(x_0, paths=1, generator=seeded())
    torch.testing.assert_close(one, path)

    sizes = []
    network = model.network
    model.network = lambda x, *rest: (sizes.append(len(x)), network(x, *rest))[1]
    monkeypatch.setattr("nelbo.chain.mhvae.VALUES_PER_CALL", 2 * x_0.numel())
    both = model.importance_weighted_elbo(
        x_0, Condition(label=torch.arange(3)), paths=3, generator=seeded()
    )
    assert set(sizes) == {6, 3}
    generator = seeded()
    weights = model.path_elbo(x_0.repeat(2, 1, 1, 1), generator=generator).view(2, 3)
    third = model.path_elbo(x_0, generator=generator)
    expected = torch.cat([weights, third[None]]).logsumexp(0) - math.log(3)
    torch.testing.assert_close(both, expected)


def test_no_paths_are_refused():
    model = gaussian_model(STD, NoiseSchedule.linear(4, 0.1, 0.5), "fixed_large")
    with pytest.raises(NelboError, match="paths must be at least 1, got 0"):
        model.importance_weighted_elbo(torch.zeros(1, *SHAPE), paths=0)


def test_weighting_terms_apart_exceeds_the_likelihood(generator):
    """z ~ N(0, 1), x|z ~ N(z, 1) with its exact posterior: the ELBO is log p(x) already.

    Averaging p(x|z) over draws inside the logarithm, beside the same KL, must then exceed it; and
    with the KL's ratio averaged over draws of its own, all of the KL is lost.
    """
    x = 1.3
    truth = Normal(0.0, math.sqrt(2.0)).log_prob(torch.tensor(x)).item()
    prior, posterior = Normal(0.0, 1.0), Normal(x / 2, math.sqrt(0.5))

    def draws(S: int) -> torch.Tensor:
        return x / 2 + math.sqrt(0.5) * torch.randn(20_000, S, generator=generator)

    def mean_of_log_mean(log_ratio: torch.Tensor) -> torch.Tensor:
        return log_ratio.logsumexp(1) - math.log(log_ratio.shape[1])

    kl = torch.distributions.kl_divergence(posterior, prior).item()
    z, other = draws(64), draws(64)
    likelihood = Normal(z, 1.0).log_prob(torch.tensor(x))
    ratio = prior.log_prob(other) - posterior.log_prob(other)
    joint = likelihood + prior.log_prob(z) - posterior.log_prob(z)

    assert mean_of_log_mean(joint).mean().item() == pytest.approx(truth, abs=1e-4)  # valid
    reconstruction_alone = mean_of_log_mean(likelihood) - kl
    apart = mean_of_log_mean(likelihood) + mean_of_log_mean(ratio)
    assert reconstruction_alone.mean().item() > truth + 0.1
    assert apart.mean().item() > truth + 0.1


def colour_model(data=None, variance="learned_range") -> Diffusion:
    def network(x_t, time, condition=None):
        lean = torch.linspace(0.2, 0.9, 3, dtype=x_t.dtype).view(1, 3, 1, 1)
        output = lean * x_t
        return torch.cat([output, output.tanh()], 1) if variance == "learned_range" else output

    return Diffusion(
        network,
        NoiseSchedule.linear(12, 0.02, 0.5),
        data=data or Pixels(256),
        variance=variance,
        shape=(3, 4, 5),
    )


MIRRORED = Importance(3, torch.arange(1.0, 12.0).double() / 66, antithetic=True, reconstructions=3)


@pytest.mark.parametrize("levels", [None, 1, 4, MIRRORED], ids=["every", "1", "4", "mirrored"])
@pytest.mark.parametrize("data", [Pixels(256), Continuous()], ids=["pixels", "continuous"])
@pytest.mark.parametrize("variance", ["learned_range", "fixed_small"])
def test_map_sums_to_the_bound_of_the_same_draws(levels, data, variance, generator):
    model = colour_model(data, variance)
    x_0 = Pixels(256).to_network(torch.randint(256, (6, 3, 4, 5), generator=generator))
    found = model.bound_map(x_0, levels=levels, generator=torch.Generator().manual_seed(7))
    assert found.nats.shape == x_0.shape
    assert found.by_pixel.shape == (6, 4, 5)
    assert found.by_channel.shape == (6, 3)
    for sums in (found.by_pixel.flatten(1).sum(1), found.by_channel.sum(1)):
        torch.testing.assert_close(sums, found.bound.nelbo, rtol=1e-4, atol=0)
    # and that bound is the one elbo gives for this seed
    bound = model.elbo(x_0, levels=levels, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(found.bound.nelbo, bound.nelbo, rtol=1e-4, atol=0)


def test_map_of_independent_values_is_the_bound_of_each(generator):
    """The network treats every value alone, so each value is a model of its own."""
    schedule = NoiseSchedule.linear(6, 0.02, 0.5)
    model = gaussian_model(STD, schedule, "fixed_small", shape=(1, 1, 2))
    single = gaussian_model(STD, schedule, "fixed_small", shape=(1, 1, 1))
    x_0 = torch.tensor([0.1, 0.9], dtype=torch.float64).view(1, 1, 1, 2).expand(5000, -1, -1, -1)
    found = model.bound_map(x_0, generator=generator).by_pixel[:, 0]
    for column in range(2):
        alone = single.elbo(x_0[..., column : column + 1], generator=generator).nelbo
        difference = found[:, column].mean() - alone.mean()
        error = math.hypot(found[:, column].std(), alone.std()) / math.sqrt(5000)
        assert abs(difference.item()) < 4 * error
    assert found[:, 1].mean() > found[:, 0].mean() + 0.3


def test_profile_has_the_mean_and_error_of_every_level(generator):
    model = colour_model()
    x_0 = Pixels(256).to_network(torch.randint(256, (9, 3, 4, 5), generator=generator))
    bound = model.elbo(x_0, levels=4, generator=generator)
    profile = bound.level_means()
    assert profile.levels.tolist() == bound.levels.unique().tolist()
    for t, mean, error in zip(*(v.tolist() for v in vars(profile).values()), strict=True):
        values = bound.score_matching[bound.levels == t].double()
        assert mean == pytest.approx(values.mean().item())
        # Draws of one example are no independent ones: errors go by example.
        if len(values) > 1 and ((bound.levels == t).sum(1) <= 1).all():
            assert error == pytest.approx(values.std().item() / math.sqrt(len(values)))
        elif len(values) == 1:
            assert math.isnan(error)


def test_draws_of_the_first_level_are_averaged():
    """Of two draws each counts a half, in the mean, by value and by its weight."""
    draws = Draws.none(torch.zeros(2, 3, dtype=torch.float64))
    for k in (1.0, 5.0):
        by_value = k * torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
        draws = draws.with_draw(by_value.sum(1), by_value, 4, 2)
    assert draws.mean.tolist() == (draws.weights * draws.values).sum(1).tolist() == [18.0, 3.0]
    assert draws.total.tolist() == [[3.0, 6.0, 9.0], [0.0, 3.0, 0.0]]
    assert draws.calls.tolist() == [8, 8]
    assert draws.levels.tolist() == [[1, 1], [1, 1]]
    # Of 6 and 30: their variance of 288, over two draws.
    assert draws.variance[0] == pytest.approx(144.0)
