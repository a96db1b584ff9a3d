"""Families without a diffusion chain code with their own conditionals, or along their latents."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from nelbo import NelboError, Pixels, coding
from nelbo.coding.container import Block, Container
from nelbo.families import GAN, HMM, LDS, PPCA, RNN, SSM, VAE, HierarchicalVAE, MarkovModel
from nelbo.families.kalman import kalman_filter
from nelbo.families.raster import to_rows
from tests.coding.models import random_images, tiny

LEVELS = 5
SHAPE = (1, 4, 4)


def allocated(family, shape=SHAPE, levels=LEVELS):
    """With its first weights, as if fitted."""
    torch.manual_seed(0)
    family.allocate(shape, Pixels(levels))
    return family.eval()


def some_images(n, shape=SHAPE, levels=LEVELS):
    return random_images(n, tiny(levels, shape))


def hmm(by: str):
    model = allocated(HMM(3, by=by))
    random = torch.Generator().manual_seed(1)
    for name in ("initial", "transition", "emission_parameters"):
        p = torch.rand(getattr(model, name).shape, generator=random, dtype=torch.float64) + 0.05
        getattr(model, name).copy_(p / p.sum(-1, keepdim=True))
    return model


def markov():
    model = MarkovModel(2)
    images = some_images(20, (3, 2, 2))
    return model.fit(2.0 * images / (LEVELS - 1) - 1, data=Pixels(LEVELS))


EXACT = {
    "hmm by row": lambda: hmm("row"),
    "hmm by pixel": lambda: hmm("pixel"),
    "markov": markov,
    "rnn": lambda: allocated(RNN(width=8, layers=1)),
    "ssm": lambda: allocated(SSM(width=8, layers=1, states=2)),
    "rnn of many levels": lambda: allocated(RNN(width=8, layers=1), levels=256),
}


@pytest.mark.parametrize("name", EXACT)
def test_conditionals_are_the_likelihood_and_code_it(name):
    model = EXACT[name]()
    levels = model.data.levels
    images = some_images(30, model.shape, levels)
    wide = model.double()
    exact = wide.evidence(wide.data.to_network(images).double()).total.detach()
    values = images.permute(0, 2, 3, 1).flatten(1).long()
    steps = wide.conditionals(len(images))
    log_p, total = next(steps), torch.zeros(len(images), dtype=torch.float64)
    with torch.no_grad():
        for i in range(values.shape[1]):
            assert torch.allclose(log_p.exp().sum(1), torch.ones(len(images)).double())
            total += log_p.gather(1, values[:, i : i + 1])[:, 0]
            if i + 1 < values.shape[1]:
                log_p = steps.send(values[:, i])
    assert torch.allclose(-total, exact, rtol=1e-6)
    archive = coding.compress(model, images)
    block = Block.from_bytes(Container.from_bytes(archive).blocks[0])
    assert 32 * len(block.words) == pytest.approx(
        float(exact.sum()) / math.log(2), rel=2e-3, abs=96
    )


LATENT = {
    "vae": lambda: allocated(VAE(3, width=8)),
    "hierarchical vae": lambda: allocated(HierarchicalVAE(3, width=8)),
    "ppca": lambda: PPCA(3).fit(2.0 * some_images(40) / (LEVELS - 1) - 1, data=Pixels(LEVELS)),
}


def lds():
    return LDS(2).fit(2.0 * some_images(40) / (LEVELS - 1) - 1, data=Pixels(LEVELS))


def test_an_lds_codes_in_as_many_bits_as_its_bound():
    """Its states, rotated, are independent given x: bits back lose nothing to a product."""
    model, images = lds(), some_images(40)
    x = model.data.to_network(images).double()
    chain = model.latent_chain
    density = MultivariateNormal(
        chain.mean, chain.weight @ chain.weight.T + chain.noise.diag()
    ).log_prob(x.flatten(1))
    exact = kalman_filter(model.system, to_rows(x)).log_likelihood
    assert torch.allclose(density, exact, rtol=1e-8)
    off = chain.weight.T @ (chain.weight / chain.noise[:, None])
    assert torch.allclose(off, off.diagonal().diag(), atol=1e-8)
    archive = coding.compress(model, images)
    block = Block.from_bytes(Container.from_bytes(archive).blocks[0])
    bound = float(model.evidence(x).total.sum()) / math.log(2)
    assert 32 * (len(block.words) - block.taken) == pytest.approx(bound, rel=0.05)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_an_lds_whose_states_explain_nothing_codes_without_them(count):
    """Of equal images, or of one alone, nothing varies: the mean image has all of the probability
    that its noise leaves it, and each picture takes what the evidence says."""
    alike = torch.full((count, *SHAPE), 3)
    model = LDS(2).fit(2.0 * alike / (LEVELS - 1) - 1, data=Pixels(LEVELS))
    images = torch.cat([alike, some_images(5)])
    archive = coding.compress(model, images)
    assert torch.equal(coding.decompress(model, archive), images)
    bits = 8 * coding.estimate(model, images).bytes.mean
    evidence = model.evidence(model.data.to_network(images)).total.sum() / math.log(2)
    assert bits == pytest.approx(float(evidence), rel=1e-3)


@pytest.mark.parametrize("name", LATENT)
def test_families_with_latents_code_along_them(name):
    model = LATENT[name]()
    images = some_images(5)
    assert torch.equal(coding.decompress(model, coding.compress(model, images)), images)


def test_a_model_without_probabilities():
    model = allocated(GAN(width=8), (1, 8, 8))
    with pytest.raises(NelboError, match=r"^a GAN cannot code pictures"):
        coding.compress(model, some_images(2, (1, 8, 8)))
