"""Training objectives against the bound they estimate."""

from __future__ import annotations

import math

import pytest
import torch

import nelbo
from nelbo import NelboError
from nelbo.diffusion.level_samplers import (
    LevelSampler,
    level_probabilities,
    shifted_probabilities,
)
from nelbo.diffusion.objectives import HYBRID_WEIGHT, Objective
from nelbo.diffusion.weighting import EDM
from tests.diffusion.test_model import PREDICTIONS, SHAPE, VARIANCES, T, make, pixels


@pytest.mark.parametrize("objective", ["simple", "bound"])
@pytest.mark.parametrize("variance", VARIANCES)
def test_reading_of_the_bound_is_unbiased(objective, variance, generator):
    model = make(variance=variance)
    x_0 = pixels(1).expand(40_000, *SHAPE)
    with torch.no_grad():
        exact = model.elbo(x_0[:10_000], generator=generator).nelbo
        nelbo = Objective(objective)(model, x_0, generator=generator).nelbo
    error = math.sqrt(exact.var() / len(exact) + nelbo.var() / len(nelbo))
    assert abs(exact.mean() - nelbo.mean()) < 3 * error


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_simple_is_the_squared_error_of_what_the_network_predicts(prediction):
    model = make(prediction, clip_sample=True)
    x_0 = pixels(6)
    loss = nelbo.loss(model, x_0, generator=torch.Generator().manual_seed(4))
    g = torch.Generator().manual_seed(4)
    t, _ = LevelSampler(level_probabilities(T)).draw(6, g)
    noise = torch.randn(6, *SHAPE, generator=g, dtype=torch.float64)
    a = model.schedule.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
    s = (1 - a**2).sqrt()
    target = {"epsilon": noise, "sample": x_0, "v_prediction": a * noise - s * x_0}[prediction]
    output = model.network(a * x_0 + s * noise, t - 1)
    torch.testing.assert_close(loss, (output - target).square().mean())


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip_sample", [True, False])
def test_clipped_is_the_error_in_v_of_what_the_model_makes_of_the_output(prediction, clip_sample):
    model = make(prediction, clip_sample=clip_sample)
    network = model.network
    # So that all predictions leave the range.
    model = model.replace(network=lambda x, time, condition=None: 3 * network(x, time))
    x_0 = pixels(40)
    terms = Objective("clipped")(model, x_0, generator=torch.Generator().manual_seed(4))
    g = torch.Generator().manual_seed(4)
    t, weight = LevelSampler(level_probabilities(T, 0.1)).draw(40, g)
    assert (t == 1).sum() == 4
    noise = torch.randn(40, *SHAPE, generator=g, dtype=torch.float64)
    a = model.schedule.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
    s = (1 - a**2).sqrt()
    x_t = a * x_0 + s * noise
    output = model.network(x_t, t - 1)
    found = {
        "epsilon": (x_t - s * output) / a,
        "sample": output,
        "v_prediction": a * x_t - s * output,
    }[prediction]
    assert (found.abs() > 1).any()
    if clip_sample:
        found = found.clamp(-1, 1)
    v, target = (a * x_t - found) / s, a * noise - s * x_0
    losses = (v - target).square().flatten(1).mean(1) / T
    # Level 1 has the bound's term, at the weight that a nat of level 2 has in what is around it.
    alpha = model.schedule.alphas_cumprod
    snr = alpha / (1 - alpha)
    nats_of_error = 0.5 * (snr[1] - snr[2]) * (1 - alpha[2])
    cost = -model.reconstruction(x_0, x_t) / 18
    losses = torch.where(t == 1, cost / nats_of_error / T, losses)
    bits = terms.nelbo.mean() / (18 * math.log(2))
    torch.testing.assert_close(terms.loss, (weight * losses).mean() + HYBRID_WEIGHT * bits)


def test_clipped_has_no_gradient_where_the_clip_makes_the_prediction_right():
    """All pixels white, and an output that says whiter than white at every level."""
    model = make("sample", clip_sample=True)
    white = torch.ones(8, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        model.network.scale.fill_(0.0)
    shift = torch.full((), 5.0, dtype=torch.float64, requires_grad=True)
    network = model.network
    model = model.replace(network=lambda x, time, condition=None: network(x, time) + shift)

    def gradient(objective):
        beyond_level_1 = LevelSampler(level_probabilities(T, 1e-9))
        g = torch.Generator().manual_seed(1)
        terms = Objective(objective, beyond_level_1)(model, white, generator=g)
        assert (terms.levels > 1).all()
        return torch.autograd.grad(terms.loss, shift)[0].item()

    assert gradient("clipped") == 0.0
    assert gradient("hybrid") > 1.0


@pytest.mark.parametrize("objective", ["simple", "hybrid"])
def test_shifted_levels_count_as_often_as_they_are_drawn(objective, generator):
    """The loss is E_{t ~ π}‖y − ŷ‖² with the shifted π, whichever distribution draws its levels."""
    model = make()
    x_0 = pixels(1).expand(40_000, *SHAPE)
    noise = torch.randn(len(x_0), *SHAPE, generator=generator, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for t, share in enumerate(shifted_probabilities(T, 3.0).tolist(), 1):
        output = model.predict(model.diffuse(x_0, noise, t), t).output
        expected += share * (output - noise).square().mean()
    uniform = LevelSampler(level_probabilities(T))
    for sampler in (None, uniform):
        shifted = Objective(objective, sampler, level_shift=3.0)
        with torch.no_grad():
            terms = [shifted(model, x_0[:4000], generator=generator) for _ in range(30)]
        losses = torch.stack([term.loss for term in terms])
        if objective == "hybrid":
            share = HYBRID_WEIGHT / (18 * math.log(2))
            losses = losses - share * torch.stack([term.nelbo.mean() for term in terms])
        error = losses.std() / math.sqrt(len(losses))
        assert (losses.mean() - expected).abs() < 4 * error + 0.01 * expected
        if sampler is None:
            levels = torch.cat([term.levels for term in terms]).double()
            middle = (shifted_probabilities(T, 3.0) * torch.arange(1, T + 1)).sum()
            assert (levels.mean() - middle).abs() < 0.05


def test_an_objective_with_weights_of_its_own_is_not_shifted():
    for objective in ("bound", "sigmoid", EDM(data_std=0.3)):
        with pytest.raises(NelboError, match="a shift of levels is for the objectives simple"):
            Objective(objective, level_shift=2.0)


def test_hybrid_adds_the_bound_and_teaches_only_the_variance_by_it():
    model = make(variance="learned_range")
    x_0 = pixels(64)

    def terms(objective):
        g = torch.Generator().manual_seed(2)
        return Objective(objective)(model, x_0, generator=g)

    simple, hybrid = terms("simple"), terms("hybrid")
    bits = hybrid.nelbo.mean() / (18 * math.log(2))
    torch.testing.assert_close(hybrid.loss, simple.loss + HYBRID_WEIGHT * bits)

    # With the mean's half of the output made constant, the bound's gradient must vanish where
    # the variance does not depend on the parameter either.
    fixed = make(variance="fixed_small")
    both = nelbo.loss(fixed, x_0, objective="hybrid", generator=torch.Generator().manual_seed(2))
    alone = nelbo.loss(fixed, x_0, objective="simple", generator=torch.Generator().manual_seed(2))
    (g_both,) = torch.autograd.grad(both, fixed.network.scale)
    (g_alone,) = torch.autograd.grad(alone, fixed.network.scale)
    torch.testing.assert_close(g_both, g_alone)


def test_gradient_of_the_bound_matches_finite_differences():
    model = make(variance="learned_range")
    x_0 = pixels(64)

    def value():
        return nelbo.loss(model, x_0, objective="bound", generator=torch.Generator().manual_seed(9))

    (gradient,) = torch.autograd.grad(value(), model.network.scale)
    step = 1e-6
    with torch.no_grad():
        model.network.scale += step
        above = value()
        model.network.scale -= 2 * step
        below = value()
    assert gradient.item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-5)


@pytest.mark.parametrize("objective", ["simple", "hybrid", "clipped"])
def test_what_each_example_costs_makes_the_loss(objective):
    """The weighted mean of the examples' losses, with the prior matching that the bound adds."""
    model, x_0 = make(variance="learned_range"), pixels(40)
    sampler = LevelSampler(level_probabilities(T, 0.2))
    terms = Objective(objective, sampler)(model, x_0, generator=torch.Generator().manual_seed(4))
    t, weight = sampler.draw(40, torch.Generator().manual_seed(4))
    assert torch.equal(terms.levels, t)
    expected = (weight * terms.level_losses).mean()
    if objective != "simple":
        share = HYBRID_WEIGHT / (18 * math.log(2))
        expected = expected + share * model.prior_matching(x_0).mean()
    torch.testing.assert_close(terms.loss.detach(), expected)


def test_the_one_level_of_a_chain_counts_its_nats_a_dimension():
    model = make().respace([5])
    x_0 = pixels(8)
    terms = Objective("clipped")(model, x_0, generator=torch.Generator().manual_seed(4))
    g = torch.Generator().manual_seed(4)
    LevelSampler(level_probabilities(1)).draw(8, g)
    noise = torch.randn(8, *SHAPE, generator=g, dtype=torch.float64)
    a = model.schedule.alphas_cumprod[1]
    cost = -model.reconstruction(x_0, a.sqrt() * x_0 + (1 - a).sqrt() * noise) / 18
    bits = terms.nelbo.mean() / (18 * math.log(2))
    torch.testing.assert_close(terms.loss, cost.mean() + HYBRID_WEIGHT * bits)
