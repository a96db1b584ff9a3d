"""Weighted bounds against the formulas of their papers, closed forms and diffusers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import nelbo
from nelbo import NelboError, NoiseSchedule
from nelbo.diffusion.level_samplers import LevelSampler, level_probabilities
from nelbo.diffusion.objectives import HYBRID_WEIGHT, OBJECTIVES, Objective
from nelbo.diffusion.weighting import EDM, P2, WEIGHTINGS, MinSNR, Sigmoid, error_weights
from tests.diffusion.test_model import PREDICTIONS, SHAPE, VARIANCES, T, make, pixels
from tests.oracles.gaussian import expected_terms, gaussian_model


def paper_weight(name: str, snr: float) -> float:
    """On ‖ε − ε̂‖² for min_snr and p2, on the bound for the others."""
    if name == "min_snr":
        return min(snr, 5.0) / snr
    if name == "p2":
        return 1 / (1 + snr)
    if name == "sigmoid":
        return 1 / (1 + math.exp(math.log(snr) - 2))
    noise_power = 1 / snr  # σ² of x_0 + σε
    return stats.norm.pdf(math.log(snr), 2.4, 2.4) * (noise_power + 0.25) / 0.25


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_loss_is_the_paper_s_whatever_the_network_predicts(name, prediction):
    model = make(prediction, clip_sample=True)
    x_0 = pixels(40)
    loss = nelbo.loss(model, x_0, objective=name, generator=torch.Generator().manual_seed(4))
    g = torch.Generator().manual_seed(4)
    t, _ = LevelSampler(level_probabilities(T)).draw(40, g)
    noise = torch.randn(40, *SHAPE, generator=g, dtype=torch.float64)
    signal = [1.0]
    for i in range(T):
        signal.append(signal[-1] * (1 - 0.01 - (0.4 - 0.01) * i / (T - 1)))
    snr = [math.inf, *(a / (1 - a) for a in signal[1:])]
    small = (1 - signal[1]) / (1 - signal[2]) * (1 - signal[2] / signal[1])
    expected = 0.0
    for i in range(40):
        level = int(t[i])
        a, s = math.sqrt(signal[level]), math.sqrt(1 - signal[level])
        x_t = (a * x_0[i] + s * noise[i])[None]
        out = model.network(x_t, torch.tensor([level - 1]))
        x_hat = {"epsilon": (x_t - s * out) / a, "sample": out, "v_prediction": a * x_t - s * out}
        error = (x_hat[prediction][0] - x_0[i]).square().mean().item()
        weight = paper_weight(name, snr[level])
        if name in ("min_snr", "p2"):
            expected += weight * snr[level] * error / 40  # ‖ε − ε̂‖² = SNR ‖x_0 − x̂_0‖²
        else:
            gain = snr[level - 1] - snr[level] if level > 1 else 1 / small
            expected += T * weight * 0.5 * gain * error / 40
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weighs_as_in_the_training_scripts_of_diffusers(prediction):
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    scheduler = DDPMScheduler(1000, beta_schedule="scaled_linear", beta_start=1e-3, beta_end=0.02)
    timesteps = torch.arange(1000)
    snr = compute_snr(scheduler, timesteps)
    theirs = torch.stack([snr, 5.0 * torch.ones(1000)], dim=1).min(dim=1)[0]
    theirs = theirs / (snr + 1 if prediction == "v_prediction" else snr)
    schedule = NoiseSchedule.scaled_linear(1000, 1e-3, 0.02)
    ours = 1000 * error_weights(MinSNR(5.0), schedule, prediction)[1:]
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-3, atol=1e-6)


def closed_form_errors(schedule: NoiseSchedule, std: float) -> torch.Tensor:
    """E‖ε − E[ε|x_t]‖² a dimension at levels 1..T for data N(0, std²)."""
    signal = schedule.alphas_cumprod[1:]
    return signal * std**2 / (signal * std**2 + 1 - signal)


@pytest.mark.parametrize("weighting", [Sigmoid(), Sigmoid(-1.0), EDM()])
def test_a_weighted_loss_is_a_sum_of_bounds_one_for_each_level_of_added_noise(weighting):
    """Kingma & Gao 2023: Σ w_t L_t = Σ (w_t − w_{t−1}) · the bound of x_{t−1} without constants."""
    std, schedule = 0.6, NoiseSchedule.linear(30, 0.005, 0.5)
    weights = error_weights(weighting, schedule, "epsilon")[1:]
    loss = (weights * closed_form_errors(schedule, std)).sum()
    reconstruction, _, kl = expected_terms(std, schedule.betas[1:], "fixed_small")
    constant = 0.5 * math.log(2 * math.pi * schedule.posterior_variance[2])
    terms = kl.clone()
    terms[1] = -reconstruction - constant
    name = "edm" if isinstance(weighting, EDM) else "sigmoid"
    shift = 2 - getattr(weighting, "bias", 2.0)
    w = [0.0, *(paper_weight(name, float(snr) * math.exp(shift)) for snr in schedule.snr[1:])]
    bounds = [terms[level + 1 :].sum() for level in range(30)]  # of x_0 .. x_{T−1}
    mixed = sum((w[i + 1] - w[i]) * bounds[i] for i in range(30))
    assert loss.item() == pytest.approx(float(mixed), rel=1e-9)
    # With a weight that only grows with the noise, no bound counts against another.
    assert (min(b - a for a, b in itertools.pairwise(w)) >= 0) == (name == "sigmoid")


@pytest.mark.parametrize("name", ["sigmoid", "edm"])
def test_a_long_chain_sums_to_the_integral_of_the_paper(name):
    std, ends = 0.6, [-9.0, 12.0]
    log_snr = torch.linspace(ends[1], ends[0], 5000, dtype=torch.float64)
    schedule = NoiseSchedule.from_alphas_cumprod(log_snr.sigmoid())
    loss = (
        error_weights(WEIGHTINGS[name], schedule, "v_prediction")[1:]
        * closed_form_errors(schedule, std)
        / schedule.alphas_cumprod[1:]  # ‖v − v̂‖² = ‖ε − ε̂‖² / ᾱ
    )[1:].sum()  # the integral leaves the reconstruction, at level 1, out

    def error(snr: float) -> float:  # Var[x_0|x_t]
        return 1 / (1 / std**2 + snr)

    if name == "sigmoid":
        value = (
            0.5
            * integrate.quad(
                lambda u: math.exp(u) * error(math.exp(u)) / (1 + math.exp(u - 2)), *ends
            )[0]
        )
    else:  # EDM's own: ln σ ~ N(−1.2, 1.2²), its weight, the error of the denoised image

        def edm(log_sigma: float) -> float:
            sigma = math.exp(log_sigma)
            weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
            return stats.norm.pdf(log_sigma, -1.2, 1.2) * weight * error(sigma**-2)

        value = 0.5 * integrate.quad(edm, -ends[1] / 2, -ends[0] / 2, limit=200)[0]
    assert loss.item() == pytest.approx(value, rel=3e-3)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_loss_is_unbiased(name, generator):
    std, schedule = 0.6, NoiseSchedule.linear(8, 0.02, 0.5)
    model = gaussian_model(std, schedule, "fixed_small")
    weights = error_weights(WEIGHTINGS[name], schedule, "epsilon")[1:]
    exact = (weights * closed_form_errors(schedule, std)).sum().item()
    x_0 = std * torch.randn(2000, 1, 2, 2, generator=generator, dtype=torch.float64)
    draws = torch.stack(
        [nelbo.loss(model, x_0, objective=name, generator=generator) for _ in range(30)]
    )
    error = draws.std() / math.sqrt(len(draws))
    # The data stay the same: their own spread comes on top.
    assert abs(draws.mean() - exact) < 3 * error + 0.02 * exact


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_has_a_gradient_for_every_prediction(objective, variance, prediction):
    model = make(prediction, variance)
    loss = nelbo.loss(
        model, pixels(24), objective=objective, generator=torch.Generator().manual_seed(0)
    )
    (gradient,) = torch.autograd.grad(loss, model.network.scale)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient)
    assert gradient != 0


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_learned_variance_learns_from_the_bound(name):
    x_0 = pixels(32)

    def terms(variance):
        g = torch.Generator().manual_seed(2)
        return Objective(name)(make(variance=variance), x_0, generator=g)

    fixed, learned = terms("fixed_small"), terms("learned_range")
    bits = learned.nelbo.mean() / (18 * math.log(2))
    torch.testing.assert_close(learned.loss, fixed.loss + HYBRID_WEIGHT * bits)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_are_finite_where_no_signal_is_left(name, prediction):
    schedule = NoiseSchedule.linear(10).with_zero_terminal_snr()
    weights = error_weights(WEIGHTINGS[name], schedule, prediction)
    assert torch.isfinite(weights).all()
    assert weights.min() >= 0
    one = error_weights(WEIGHTINGS[name], NoiseSchedule.linear(1), prediction)
    assert torch.isfinite(one).all()


def test_parameters_of_weightings_are_checked():
    with pytest.raises(NelboError, match="gamma of MinSNR must be positive, got 0"):
        MinSNR(0.0)
    with pytest.raises(NelboError, match="k of P2 must be positive"):
        P2(k=-1.0)
    with pytest.raises(NelboError, match="bias of Sigmoid must be finite"):
        Sigmoid(math.nan)
    with pytest.raises(NelboError, match="data_std of EDM must be positive"):
        EDM(data_std=0.0)
    with pytest.raises(NelboError, match=r"unknown objective 'max_snr'.*min_snr"):
        nelbo.loss(make(), pixels(2), objective="max_snr")


def test_a_weighting_of_one_s_own_settings_is_an_objective():
    def loss(objective):
        g = torch.Generator().manual_seed(1)
        return nelbo.loss(make(), pixels(8), objective=objective, generator=g)

    assert loss(MinSNR()) == loss("min_snr")
    assert loss(MinSNR(0.5)) < loss("min_snr")
    # As γ grows the weight becomes one, the squared error of the noise.
    torch.testing.assert_close(loss(MinSNR(1e9)), loss("simple"))


def test_only_the_network_s_input_is_perturbed():
    x_0 = pixels(6)
    model = make("v_prediction")
    perturbed = Objective("simple", input_perturbation=0.1)
    loss = perturbed(model, x_0, generator=torch.Generator().manual_seed(4)).loss
    g = torch.Generator().manual_seed(4)
    t, _ = LevelSampler(level_probabilities(T)).draw(6, g)
    noise, extra = (torch.randn(6, *SHAPE, generator=g, dtype=torch.float64) for _ in range(2))
    a = model.schedule.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
    s = (1 - a**2).sqrt()
    output = model.network(a * x_0 + s * (noise + 0.1 * extra), t - 1)
    torch.testing.assert_close(loss, (output - (a * noise - s * x_0)).square().mean())


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_bound_reads_the_prediction_off_the_state_that_is_not_perturbed(prediction):
    """By hand: the network sees ε + γξ, and x̂_0 is read off x_t with ε alone, at γ = 0.5."""
    x_0, gamma = pixels(300), 0.5
    model = make(prediction, "fixed_large")
    perturbed = Objective("bound", input_perturbation=gamma)
    found = perturbed(model, x_0, generator=torch.Generator().manual_seed(4))
    g = torch.Generator().manual_seed(4)
    t, _ = LevelSampler(level_probabilities(T, 0.1)).draw(300, g)
    assert torch.equal(t, found.levels)
    noise, extra = (torch.randn(300, *SHAPE, generator=g, dtype=torch.float64) for _ in range(2))
    beta = torch.tensor([0.0] + [0.01 + (0.4 - 0.01) * i / (T - 1) for i in range(T)]).double()
    signal = torch.cumprod(1 - beta, 0)
    wide = (-1, 1, 1, 1)
    a, s = signal[t].sqrt().view(wide), (1 - signal[t]).sqrt().view(wide)
    output = model.network(a * x_0 + s * (noise + gamma * extra), t - 1).detach()
    x_t = a * x_0 + s * noise
    predicted = {
        "epsilon": (x_t - s * output) / a,
        "sample": output,
        "v_prediction": a * x_t - s * output,
    }[prediction]
    above = t >= 2
    at = t[above]
    weight = signal[at - 1].sqrt() * beta[at] / (1 - signal[at])
    error = (predicted - x_0)[above].square().flatten(1).sum(1)
    ratio = (1 - signal[at - 1]) / (1 - signal[at])
    dims = math.prod(SHAPE)
    divergence = weight**2 * error / beta[at] + dims * (ratio - 1 - ratio.log())
    torch.testing.assert_close(found.level_losses[above], 0.5 * divergence)
    # Of level 1 too: the bin of each pixel under N(x̂_0, β_1).
    at_first = ~above
    mean, edge, std = predicted[at_first].numpy(), x_0[at_first].numpy(), math.sqrt(0.01)
    upper = stats.norm.cdf(edge + 1 / 16, mean, std)
    lower = stats.norm.cdf(edge - 1 / 16, mean, std)
    upper[edge > 1 - 1e-9], lower[edge < -1 + 1e-9] = 1.0, 0.0
    inside = (upper - lower).reshape(int(at_first.sum()), -1)
    expected = -np.log(np.maximum(inside, 1e-300)).sum(1)
    likely = (inside > 1e-6).all(1)  # where the difference of two tails has its digits
    assert likely.sum() >= 2 or prediction != "sample"
    torch.testing.assert_close(
        found.level_losses[at_first][likely], torch.from_numpy(expected[likely]), rtol=1e-4, atol=0
    )
