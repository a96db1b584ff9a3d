"""The VAE and the hierarchical VAE: their bounds against quadrature, and what training keeps."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from nelbo import Continuous, NelboError, Pixels
from nelbo.chain.mhvae import MHVAE
from nelbo.families import VAE, HierarchicalVAE
from nelbo.families.convolution import ImageToVector, VectorToImage
from nelbo.families.variational import DRAWS
from tests.families.contract import check_contract


def blobs(n: int, generator: torch.Generator, levels: int = 9) -> Tensor:
    """Images of 5 × 4 pixels that two numbers decide."""
    z = torch.rand(n, 2, generator=generator)
    rows = torch.linspace(-1, 1, 5)[:, None] * (2 * z[:, :1, None] - 1)
    columns = torch.linspace(-1, 1, 4) * (2 * z[:, 1:, None] - 1)
    x = (rows + columns).clamp(-1, 1)[:, None]
    return Pixels(levels).to_network(Pixels(levels).to_levels(x))


def trained(model, x: Tensor, steps: int, space=Pixels(9)):  # noqa: B008
    fit = model.fit_steps(x, data=space)
    for _ in itertools.islice(fit, steps):
        pass
    fit.close()
    return model


@pytest.fixture(scope="module")
def vae() -> VAE:
    x = blobs(400, torch.Generator().manual_seed(0))
    return trained(VAE(2, width=8), x, 80)


def log_likelihood(model: VAE, x: Tensor) -> Tensor:
    """log p(x) by quadrature over the two latents, on a grid of a posterior's size."""
    line = torch.linspace(-5, 5, 161)
    z = torch.cartesian_prod(line, line)
    with torch.no_grad():
        parts = [model.hierarchy.p_data(part) for part in z.split(4096)]
        prior = Normal(0.0, 1.0).log_prob(z).sum(1)
        found = [
            torch.cat([p.log_prob(image).flatten(1).sum(1) for p in parts]) + prior for image in x
        ]
    return torch.stack(found).double().logsumexp(1) + 2 * math.log(float(line[1] - line[0]))


def test_one_draw_is_the_bound_in_the_mean(vae, generator):
    """What is held out is read by it: its mean is the bound, whatever the KL of each image."""
    x = blobs(6, generator)
    with torch.no_grad():
        draws = torch.stack([vae.one_draw(x, generator) for _ in range(400)])
    bound = vae.evidence(x, generator=generator)
    error = (draws.var(0) / len(draws) + draws.var(0) / DRAWS).sqrt()
    assert ((draws.mean(0) - bound.total).abs() < 4.5 * error + 1e-4).all()


def test_the_importance_weighted_bound_rises_to_the_likelihood(vae):
    """With an encoder that is made 1.6 times too wide, so that there is a gap to close."""
    model = VAE(2, width=8)
    model.allocate((1, 5, 4), Pixels(9))
    model.load_state_dict(vae.state_dict())
    g = torch.Generator().manual_seed(1)
    x, in_bits = blobs(6, g), 1 / (20 * math.log(2))
    with torch.no_grad():
        model.hierarchy.encoder.out.bias[2:] += 0.5
        exact = log_likelihood(model, x).mean().item() * in_bits
        elbo = -model.evidence(x.repeat(40, 1, 1, 1), generator=g).bits_per_dim.mean().item()
        eight, many = (
            model.importance_weighted_elbo(x.repeat(n, 1, 1, 1), paths=s, generator=g).mean().item()
            * in_bits
            for s, n in ((8, 40), (400, 1))
        )
    assert elbo < eight < many
    assert abs(many - exact) < 0.02
    assert exact - elbo > 0.02


def test_the_bound_is_that_of_an_mhvae(vae):
    """The closed KL and the paths of the definition agree in the mean."""
    assert isinstance(vae.hierarchy, MHVAE)
    assert vae.hierarchy.num_levels == 1
    g = torch.Generator().manual_seed(2)
    x = blobs(1, g).expand(4000, -1, -1, -1)
    with torch.no_grad():
        bound = vae.evidence(x, generator=g)
        path = vae.hierarchy.path_elbo(x, generator=g)
    assert bound.kind == "bound"
    error = math.hypot(path.std().item(), bound.elbo.std().item()) / math.sqrt(4000)
    assert abs(path.mean() - bound.elbo.mean()) < 4 * error
    # the Monte Carlo error that the evidence reports is that between draws
    spread = bound.elbo.var().item()
    assert 0.8 * spread < bound.monte_carlo_variance.mean().item() < 1.25 * spread


def test_free_bits_and_beta_decide_what_the_latents_hold(generator):
    x = blobs(300, generator)

    def kl(**options) -> Tensor:
        model = trained(VAE(2, width=8, **options), x, 30)
        with torch.no_grad():
            return model.evidence(x, generator=generator).prior_matching.mean()

    usual = kl()
    pressed = kl(beta=30.0)
    assert pressed < 0.5 * usual
    assert kl(beta=30.0, free_bits=1.0) > pressed + 0.5


def test_the_loss_with_free_bits_by_hand(vae, generator):
    x = blobs(6, generator)
    model = VAE(2, width=8, beta=2.0, free_bits=3.0)
    model.allocate((1, 5, 4), Pixels(9))
    model.load_state_dict(vae.state_dict())
    with torch.no_grad():
        q = model.encoder(x)
        kl = 0.5 * (q.mean**2 + q.variance - 1 - q.variance.log())
        draw = torch.Generator().manual_seed(5)
        z = q.mean + q.stddev * torch.randn(q.mean.shape, generator=draw)
        reconstruction = model.hierarchy.p_data(z).log_prob(x).flatten(1).sum(1)
        expected = 2 * kl.mean(0).clamp(min=3.0).sum() - reconstruction
        found = model.loss(x, torch.Generator().manual_seed(5))
    torch.testing.assert_close(found, expected)


def test_a_hierarchy_learns_and_its_bound_is_below_the_likelihood(generator):
    x = blobs(300, generator)
    model = trained(HierarchicalVAE(2, levels=3, width=8), x, 60)
    with torch.no_grad():
        evidence = model.evidence(x[:50], generator=generator)
        tighter = model.importance_weighted_elbo(x[:50], paths=50, generator=generator)
    assert evidence.kind == "bound"
    assert evidence.bits_per_dim.mean() < 0.8 * math.log2(9)
    assert -tighter.mean() < evidence.total.mean()
    assert (evidence.monte_carlo_variance > 0).all()


def test_the_bound_of_a_hierarchy_against_quadrature(generator):
    """Two levels of one latent each, whose likelihood is an integral over the plane."""
    x, in_bits = blobs(300, generator), 1 / (20 * math.log(2))
    model = trained(HierarchicalVAE(1, levels=2, width=8), x, 40)
    chain, line = model.hierarchy, torch.linspace(-5, 5, 201)[:, None]
    some = x[:4]
    with torch.no_grad():
        step = chain.p_step(line, 2)  # of every z_2, a row
        log_z1 = Normal(step.mean, step.stddev).log_prob(line.T)
        log_prior = (log_z1 + Normal(0.0, 1.0).log_prob(line)).logsumexp(0)
        p = chain.p_data(line)
        log_x = torch.stack([p.log_prob(image).flatten(1).sum(1) for image in some])
        exact = (log_x + log_prior).logsumexp(1) + 2 * math.log(10 / 200)
        many = model.importance_weighted_elbo(some, paths=3000, generator=generator)
        bound = -model.evidence(some.repeat(50, 1, 1, 1), generator=generator).total
    assert abs((many - exact).mean()) * in_bits < 0.02
    assert bound.mean() < exact.mean()


def test_one_level_of_a_hierarchy_is_a_vae(vae, generator):
    x = blobs(4, generator)
    model = HierarchicalVAE(2, levels=1, width=8)
    model.allocate((1, 5, 4), Pixels(9))
    model.load_state_dict(vae.state_dict())
    with torch.no_grad():
        one = model.importance_weighted_elbo(x, paths=7, generator=torch.Generator().manual_seed(1))
        other = vae.importance_weighted_elbo(x, paths=7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 9), (1, 8, 8)])
def test_images_of_any_proportions(shape):
    x = torch.randn(2, *shape)
    z = ImageToVector(shape, 8, 6)(x)
    assert z.shape == (2, 6)
    assert VectorToImage(6, shape, 8)(z).shape == x.shape


def test_constant_pixels_and_continuous_data(generator):
    x = torch.full((20, 1, 4, 4), -1.0)
    model = trained(VAE(2, width=8), x, 40, Pixels(17))
    assert model.evidence(x).total.isfinite().all()
    real = trained(VAE(2, width=8), torch.randn(20, 1, 4, 4, generator=generator), 5, Continuous())
    assert real.evidence(x).total.isfinite().all()


@pytest.mark.parametrize("family", [VAE, HierarchicalVAE])
def test_contract(family, tmp_path):
    space = Pixels(4)
    x = space.to_network(torch.randint(0, 4, (8, 3, 4, 4)))
    check_contract(family(3, width=8).fit(x, data=space, time_budget=0.1), x, tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAE(0), "latents"),
        (lambda: VAE(width=12), "multiple of 8"),
        (lambda: VAE(beta=0.0), "beta"),
        (lambda: VAE(free_bits=-1.0), "free_bits"),
        (lambda: HierarchicalVAE(levels=0), "levels"),
        (lambda: VAE(width=8).fit(torch.zeros(2, 1, 4, 512)), "latent diffusion"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(NelboError, match=message):
        make()
