"""The objective of autoencoders against its definition, and both sides of the adversarial one."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from nelbo import NelboError, Pixels
from nelbo.chain.distributions import DiscretizedNormal
from nelbo.evidence.calibration import most_likely_scale
from nelbo.networks import AutoencoderKL
from nelbo.networks.discriminator import PatchDiscriminator
from nelbo.networks.perceptual import PerceptualDistance
from nelbo.training.kinds.autoencoder.objective import AutoencoderObjective, hinge_loss
from tests.formats import tiny
from tests.networks.test_perceptual import VGG, weights_of


def autoencoder() -> AutoencoderKL:
    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        **tiny.LAYERS,
    )
    return tiny.randomise(network).train()


def images(n: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return Pixels(256).to_network(torch.randint(0, 256, (n, 3, 8, 8), generator=generator))


def decoded(network: AutoencoderKL, x: torch.Tensor, seed: int) -> tuple[torch.Tensor, Normal]:
    q = network.encode(x)
    noise = torch.randn(q.mean.shape, generator=torch.Generator().manual_seed(seed))
    return network.decode(q.mean + q.stddev * noise), q


@pytest.mark.parametrize("kl_weight", [1.0, 0.1])
def test_it_is_the_negative_bound_with_a_standard_normal_prior(kl_weight):
    network, x = autoencoder(), images()
    objective = AutoencoderObjective(network, kl_weight=kl_weight)
    terms = objective(x, generator=torch.Generator().manual_seed(2))
    mean, q = decoded(network, x, seed=2)
    divergence = kl_divergence(q, Normal(0.0, 1.0)).flatten(1).sum(1)
    sigma = (x - mean).square().mean().sqrt()
    density = Normal(mean, sigma).log_prob(x)
    likelihood = (density + math.log(2 / 255)).flatten(1).sum(1)
    torch.testing.assert_close(terms.divergence, divergence)
    torch.testing.assert_close(terms.reconstruction, likelihood)
    torch.testing.assert_close(terms.nelbo, divergence - likelihood)
    expected = (kl_weight * divergence - likelihood).mean() / (3 * 8 * 8)
    torch.testing.assert_close(terms.loss, expected)
    inside = x.abs() < 0.99
    probability = DiscretizedNormal(mean, sigma, 256).log_prob(x)
    torch.testing.assert_close(
        (density + math.log(2 / 255))[inside], probability[inside], rtol=0, atol=1e-3
    )
    assert terms.scale == sigma
    assert terms.generator == terms.discriminator == 0


def test_no_other_scale_makes_the_batch_likelier():
    network, x = autoencoder(), images()
    terms = AutoencoderObjective(network)(x, generator=torch.Generator().manual_seed(2))
    mean, _ = decoded(network, x, seed=2)
    scales = terms.scale.item() * torch.linspace(0.5, 2, 301)
    likelihoods = torch.stack([Normal(mean, s).log_prob(x).sum() for s in scales])
    assert abs(scales[likelihoods.argmax()] / terms.scale - 1) < 0.01


def test_pixels_at_the_ends_of_the_range_do_not_run_away():
    """Nearly all of these pixels are black or white, as in line drawings."""
    torch.manual_seed(0)
    x = torch.where(torch.rand(8, 3, 8, 8) < 0.5, 1.0, -1.0)
    network = autoencoder()
    objective = AutoencoderObjective(network, kl_weight=0.1)
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    for step in range(40):
        terms = objective(x, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
    assert terms.scale < 1.05
    assert network(x).abs().max() < 1.5


def test_laplace_is_an_l1_loss():
    network, x = autoencoder(), images()
    terms = AutoencoderObjective(network, likelihood="laplace")(
        x, generator=torch.Generator().manual_seed(2)
    )
    mean, _ = decoded(network, x, seed=2)
    width, b = 2 / 255, (x - mean).abs().mean()
    expected = -(x - mean).abs() / b - math.log(2) - b.log() + math.log(width)
    torch.testing.assert_close(terms.reconstruction, expected.flatten(1).sum(1))


def test_a_learned_scale_goes_where_the_rounded_likelihood_is_greatest():
    """The network stays as it is: only the scale learns."""
    network, x = autoencoder().requires_grad_(False), images()
    objective = AutoencoderObjective(network, likelihood="discretized")
    optimizer = torch.optim.Adam(objective.parameters(), 0.1)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 100)
        terms = objective(x, generator=torch.Generator().manual_seed(2))
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
    mean, _ = decoded(network, x, seed=2)
    likelihood = DiscretizedNormal(mean, terms.scale, 256).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(terms.reconstruction, likelihood)
    assert terms.scale == pytest.approx(most_likely_scale([(x, mean)], Pixels(256)), rel=0.01)


def test_sure_decoders_gain_at_the_ends_of_the_range():
    """All pixels are black or white, which a probability rewards more than a density can."""
    torch.manual_seed(0)
    x = torch.where(torch.rand(4, 3, 2, 2) < 0.5, 1.0, -1.0)
    x = x.repeat_interleave(4, 2).repeat_interleave(4, 3)
    reached = {}
    for likelihood in ("normal", "discretized"):
        torch.manual_seed(1)
        objective = AutoencoderObjective(autoencoder(), likelihood=likelihood, kl_weight=0.1)
        optimizer = torch.optim.Adam(objective.parameters(), 5e-3)
        for step in range(50):
            terms = objective(x, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            terms.loss.backward()
            optimizer.step()
        mean, _ = decoded(objective.autoencoder, x, seed=0)
        scale = most_likely_scale([(x, mean.detach())], Pixels(256))
        probability = DiscretizedNormal(mean, scale, 256).log_prob(x)
        reached[likelihood] = -probability.mean().item() / math.log(2)
    assert reached["discretized"] < 0.75 * reached["normal"]


def test_one_loss_gives_each_side_the_gradient_of_its_own():
    """As two optimisers with two losses would have it (Esser et al. 2021, eqs. 5 to 7)."""
    torch.manual_seed(0)
    network, x = autoencoder(), images()
    discriminator = PatchDiscriminator(3, width=8, layers=1)
    objective = AutoencoderObjective(network, discriminator=discriminator, adversarial_weight=0.7)
    terms = objective(x, generator=torch.Generator().manual_seed(2))
    terms.loss.backward()

    theirs, judge = copy.deepcopy(network), copy.deepcopy(discriminator)
    theirs.zero_grad()
    mean, q = decoded(theirs, x, seed=2)
    sigma = (x - mean).detach().square().mean().sqrt()
    kl = kl_divergence(q, Normal(0.0, 1.0)).flatten(1).sum(1).mean() / 192
    nll = -Normal(mean, sigma).log_prob(x).mean()
    fooling = -judge(mean).mean()
    last = theirs.decoder.conv_out.weight
    norms = [torch.autograd.grad(g, last, retain_graph=True)[0].norm() for g in (nll, fooling)]
    balance = (norms[0] / (norms[1] + 1e-4)).item()
    (kl + nll + 0.7 * balance * fooling).backward()
    for ours, other in zip(network.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-4, atol=1e-6)
    judge.zero_grad()
    loss = hinge_loss(judge(x), judge(mean.detach()))
    loss.backward()
    for ours, other in zip(discriminator.parameters(), judge.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert terms.discriminator == pytest.approx(loss.item(), rel=1e-5)
    assert terms.generator == pytest.approx(fooling.item(), rel=1e-5)


def test_hinge_loss_stops_at_the_margin():
    sure = hinge_loss(torch.full((4,), 1.5), torch.full((4,), -1.0))
    wrong = hinge_loss(torch.full((4,), -1.0), torch.full((4,), 3.0))
    assert sure == 0
    assert wrong == 0.5 * (2 + 4)


def test_it_learns_to_reconstruct_and_the_discriminator_to_tell():
    torch.manual_seed(0)
    x = images(4)
    x = x[:, :, :2, :2].repeat_interleave(4, 2).repeat_interleave(4, 3)  # flat patches of colour
    objective = AutoencoderObjective(
        autoencoder(), kl_weight=0.1, discriminator=PatchDiscriminator(3, width=8)
    )
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    history = []
    for step in range(40):
        terms = objective(x, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
        history.append(terms)
    assert history[-1].scale < 0.7 * history[0].scale
    assert history[-1].nelbo.mean() < history[0].nelbo.mean()
    assert history[-1].discriminator < history[0].discriminator


def test_mistakes_are_explained():
    for settings, message in (
        ({"likelihood": "l2"}, "unknown likelihood 'l2'"),
        ({"kl_weight": -1.0}, "kl_weight must not be negative"),
        ({"adversarial_weight": -1.0}, "adversarial_weight must not be negative"),
    ):
        with pytest.raises(NelboError, match=message):
            AutoencoderObjective(autoencoder(), **settings)
    with pytest.raises(NelboError, match="at least 1"):
        PatchDiscriminator(3, layers=0)


def test_lpips_of_what_is_shown_is_added():
    distance = PerceptualDistance(weights_of(VGG, {}))
    network = autoencoder()
    x = torch.nn.functional.interpolate(images(2), scale_factor=2)
    plain = AutoencoderObjective(network, likelihood="discretized")
    both = AutoencoderObjective(
        network, likelihood="discretized", perceptual=distance, perceptual_weight=0.5
    )
    assert len(list(both.parameters())) == len(list(plain.parameters()))  # LPIPS does not learn
    terms, without = (o(x, generator=torch.Generator().manual_seed(2)) for o in (both, plain))
    mean, _ = decoded(network, x, seed=2)
    looks = distance(mean.clamp(-1, 1), x).mean()
    assert looks > 0.01
    torch.testing.assert_close(terms.perceptual, looks)
    torch.testing.assert_close(terms.loss, without.loss + 0.5 * looks)
    torch.testing.assert_close(terms.nelbo, without.nelbo)
    with pytest.raises(NelboError, match="perceptual_weight must not be negative"):
        AutoencoderObjective(network, perceptual=distance, perceptual_weight=-1.0)
