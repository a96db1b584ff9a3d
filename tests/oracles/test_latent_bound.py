"""The bound of latent diffusion against the evidence of a linear autoencoder."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal

from nelbo import MHVAE, Continuous, Diffusion, NelboError, NoiseSchedule, Pixels
from tests.oracles.gaussian import entropy, expected_terms, gaussian_model
from tests.oracles.linear_autoencoder import (
    DIRECTION,
    NOISE,
    SCALE,
    STD,
    LinearAutoencoder,
    draw_images,
    evidence,
    latent_model,
)

LATENTS = 4


def standard_error(x: torch.Tensor) -> float:
    return (x.std() / math.sqrt(len(x))).item()


def chain(T: int) -> NoiseSchedule:
    return NoiseSchedule.linear(T, 0.1 / T, min(20 / T, 0.999))


def gap_of_prior(schedule: NoiseSchedule) -> float:
    """Evidence less expected bound of one scaled latent, in closed form."""
    reconstruction, prior, kl = expected_terms(SCALE * STD, schedule.betas[1:], "fixed_large")
    return -entropy(SCALE * STD) - (reconstruction - prior - kl.sum().item())


@pytest.mark.parametrize("by", ["elbo", "path_elbo"])
@pytest.mark.parametrize("T", [5, 50])
def test_with_the_true_posterior_only_the_gap_of_the_prior_is_left(by, T, generator):
    schedule = chain(T)
    model = latent_model(schedule, LinearAutoencoder())
    x = draw_images(20_000, generator)
    bound = getattr(model, by)(x, generator=generator)
    gap = evidence(x) - (bound if by == "path_elbo" else bound.elbo)
    expected = LATENTS * gap_of_prior(schedule)
    assert expected > 0
    assert abs(gap.mean().item() - expected) < 4 * standard_error(gap)


def test_the_gap_of_a_worse_encoder_is_its_divergence(generator):
    """With a prior that is all but exact, log p(x) − ELBO is KL(q(z|x) || p(z|x))."""
    x = draw_images(300, generator)
    gaps = []
    for autoencoder in (LinearAutoencoder(), LinearAutoencoder(shift=0.3, spread=1.5)):
        model = latent_model(chain(1000), autoencoder)
        gap = evidence(x) - model.path_elbo(x, generator=generator)
        expected = LATENTS * autoencoder.divergence()
        assert abs(gap.mean().item() - expected) < 3 * standard_error(gap) + 0.01 * LATENTS
        gaps.append(gap.mean().item())
    assert abs(gaps[0]) < 0.05
    assert gaps[1] > 1


@pytest.mark.parametrize("skill", [1.0, 0.8], ids=["exact denoiser", "poor denoiser"])
def test_theorem_path_and_decomposed_bound_agree(skill, generator):
    autoencoder = LinearAutoencoder(shift=0.1, spread=1.2)
    model = latent_model(NoiseSchedule.linear(20, 0.01, 0.5), autoencoder, skill=skill)
    x = draw_images(20_000, generator)
    bound = model.elbo(x, generator=generator)
    difference = model.path_elbo(x, generator=generator) - bound.elbo
    assert abs(difference.mean().item()) < 3 * standard_error(difference)
    assert difference.std() > 0.1
    some = model.elbo(x, levels=3, generator=generator)
    difference = some.elbo - bound.elbo
    assert some.levels.shape == (20_000, 3)
    assert abs(difference.mean().item()) < 3 * standard_error(difference)


def test_entropy_and_reconstruction_of_latents_are_of_the_same_scaled_latents(generator):
    """Measuring latents in other units moves nats between two terms and leaves their sum."""
    schedule, x = chain(20), draw_images(20_000, generator)
    bounds = []
    for scale in (0.5, 4.0):
        # The denoiser of latents that are `stretch` times as wide, on the same chain.
        stretch = scale / SCALE
        narrow = gaussian_model(SCALE * STD, schedule, "fixed_large", shape=(1, 2, 2))
        model = latent_model(schedule, LinearAutoencoder())
        model.scale = scale
        model.prior = _Stretched(narrow, stretch)
        bounds.append(model.elbo(x, generator=torch.Generator().manual_seed(3)))
    first, second = bounds
    shift = LATENTS * math.log(8)
    torch.testing.assert_close(
        second.entropy - first.entropy, torch.full((20_000,), shift).double()
    )
    torch.testing.assert_close(second.elbo, first.elbo)


class _Stretched(torch.nn.Module):
    """The density of `factor` times the latents of a model, by the change of variables."""

    def __init__(self, model: Diffusion, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def prior_matching_map(self, z):
        return self.model.prior_matching_map(z / self.factor)

    def draw_score_matching(self, q, *arguments):
        narrow = Normal(q.mean / self.factor, q.stddev / self.factor)
        return self.model.draw_score_matching(narrow, *arguments)

    def draw_reconstruction(self, z, *arguments):
        found = self.model.draw_reconstruction(z / self.factor, *arguments)
        jacobian = z[0].numel() * math.log(self.factor)
        return replace(found, values=found.values - jacobian)


def std_of_samples(schedule: NoiseSchedule) -> float:
    """What the decoder chain of the exact denoiser draws is normal, of this standard deviation."""
    std, variance = SCALE * STD, 1.0
    betas = schedule.betas.tolist()
    signal = torch.cumprod(1 - schedule.betas, 0).tolist()
    for t in range(len(betas) - 1, 0, -1):
        data = signal[t] ** 0.5 * std**2 / (signal[t] * std**2 + 1 - signal[t])
        data *= signal[t - 1] ** 0.5 * betas[t] / (1 - signal[t])
        latent = (1 - betas[t]) ** 0.5 * (1 - signal[t - 1]) / (1 - signal[t])
        variance = (data + latent) ** 2 * variance + betas[t]
    return variance**0.5 / SCALE


def test_probabilities_of_all_images_are_bounded_by_their_integrals(generator):
    """One pixel of three channels with 4 levels: 64 images, each an integral over one latent."""
    levels, schedule = 4, chain(20)
    model = latent_model(schedule, _Rounded(), shape=(1, 1, 1), data=Pixels(levels))
    values = torch.linspace(-1, 1, levels).double()
    x = torch.cartesian_prod(values, values, values).view(-1, 3, 1, 1)

    std = torch.tensor(std_of_samples(schedule), dtype=torch.float64)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64) * std
    infinity = torch.tensor([math.inf], dtype=torch.float64)
    edges = torch.cat([-infinity, (values[1:] + values[:-1]) / 2, infinity])
    bins = Normal(DIRECTION[:, None, None] * z[:, None], NOISE).cdf(edges).diff(dim=-1)
    k = torch.cartesian_prod(*[torch.arange(levels)] * 3)
    product = bins[0][:, k[:, 0]] * bins[1][:, k[:, 1]] * bins[2][:, k[:, 2]]
    density = Normal(torch.zeros_like(std), std).log_prob(z).exp()
    probability = torch.trapezoid(product * density[:, None], z, dim=0)
    assert abs(probability.sum().item() - 1) < 1e-9

    draws = 2000
    paths = model.path_elbo(x.repeat(draws, 1, 1, 1), generator=generator).view(draws, 64)
    gap = probability.log() - paths.mean(0)
    assert (gap > -3.5 * paths.std(0) / math.sqrt(draws)).all()
    assert paths.mean(0).exp().sum() < 1
    # The encoder is near the posterior of rounded pixels, and the chain is short.
    assert 0 < (probability * gap).sum() < 0.3
    terms = model.elbo(x.repeat(draws, 1, 1, 1), generator=generator).elbo.view(draws, 64)
    difference = terms.mean(0) - paths.mean(0)
    assert (difference.abs() < 4 * ((terms.var(0) + paths.var(0)) / draws).sqrt()).all()


class _Rounded(LinearAutoencoder):
    """The encoder for pixels rounded to 4 levels, whose rounding is uniform noise of its own."""

    def __init__(self) -> None:
        super().__init__()
        noise = NOISE**2 + (2 / 3) ** 2 / 12
        self.variance = 1 / (1 / STD**2 + DIRECTION.square().sum().item() / noise)
        self.noise = noise

    def encode(self, x):
        along = torch.einsum("c,bchw->bhw", DIRECTION, x)[:, None]
        mean = self.variance * along / self.noise
        return Normal(mean, torch.full_like(mean, self.variance**0.5))


def test_the_prior_must_be_of_real_numbers():
    model = latent_model(chain(5), LinearAutoencoder())
    assert isinstance(model.prior.data, Continuous)
    assert model.num_levels == 6
    assert model.shape == (3, 2, 2)


def test_the_scales_of_its_levels_are_those_of_any_chain():
    """Level 0 is of pixels, level 1 of z_0, and those above are of the prior."""
    model = latent_model(chain(5), LinearAutoencoder())
    x = draw_images(3, torch.Generator().manual_seed(0))
    found = [
        scales(x, generator=torch.Generator().manual_seed(1))
        for scales in (model.scales, functools.partial(MHVAE.scales, model))
    ]
    torch.testing.assert_close(*found)
    prior = model.prior.sensitivity("p").tolist()
    assert model.sensitivity("p").tolist() == [1.0, *prior]
    assert model.sensitivity("q").tolist() == [1.0, 1.0, *[0.0] * 5]


def test_a_level_of_each_example_is_a_state_of_one_kind():
    """Level 0 is of three channels and level 1 of one; from level 2 on levels may differ."""
    model = latent_model(chain(5), LinearAutoencoder())
    z = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    x = draw_images(3, torch.Generator().manual_seed(0))
    for states, step, first in ((x, model.q_step, 1), (z, model.p_step, 2)):
        whole = step(states, torch.full((3,), first))
        torch.testing.assert_close(whole.mean, step(states, first).mean)
        with pytest.raises(NelboError, match=f"one batch has level {first} and others"):
            step(states, torch.tensor([first, first + 1, first]))
    for step, levels in ((model.q_step, [2, 4, 6]), (model.p_step, [3, 4, 6])):
        together = step(z, torch.tensor(levels))
        for k, t in enumerate(levels):
            alone = step(z[k : k + 1], t)
            torch.testing.assert_close(together.mean[k : k + 1], alone.mean)
            torch.testing.assert_close(together.stddev[k].flatten()[0], alone.stddev.flatten()[0])
