"""What a family is asked for, and when its iterations end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nelbo import NelboError, Pixels
from nelbo.families import GAN, HMM, LDS, PPCA, RNN, SSM, VAE, HierarchicalVAE, MarkovModel
from nelbo.families.fitting import Budget, iterate
from nelbo.families.linear_gaussian import maximum_likelihood


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PPCA(0), "latents must be at least 1, got 0"),
        (lambda: LDS(0), "latents must be at least 1"),
        (lambda: GAN(0), "latents must be at least 1"),
        (lambda: VAE(2.5), "latents must be a whole number, got float 2.5"),
        (lambda: HierarchicalVAE(levels=0), "levels must be at least 1"),
        (lambda: HierarchicalVAE(levels=10**7), "levels must be at most 1,000, got 10,000,000"),
        (lambda: RNN(layers=10**7), "layers must be at most 1,000, got 10,000,000"),
        (lambda: SSM(layers=10**7), "layers must be at most 1,000, got 10,000,000"),
        (lambda: HMM("4"), "states must be a whole number, got str"),
        (lambda: MarkovModel(-1), "order must be at least 0"),
        (lambda: SSM(states=0), "states must be at least 1"),
        (lambda: RNN(dropout=1), r"dropout must lie in \[0, 1\), got 1"),
        (lambda: SSM(dropout=1.5), r"dropout must lie in \[0, 1\), got 1.5"),
        (lambda: LDS(1, tolerance=-1), "tolerance must not be negative"),
        (lambda: HMM(1, tolerance=math.nan), "tolerance must not be negative, got nan"),
        (lambda: PPCA(1, tolerance=-0.1), "tolerance must not be negative"),
        (lambda: VAE(beta=0), "beta must be positive, got 0"),
        (lambda: VAE(beta="2"), "beta must be a number, got str '2'"),
        (lambda: VAE(width=8.0), "width must be a whole number, got float 8.0"),
        (lambda: GAN(passes=None), "passes must be a number"),
        (lambda: RNN(dropout="0.1"), "dropout must be a number"),
        (lambda: LDS(1, tolerance=True), "tolerance must be a number, got bool True"),
        (lambda: PPCA(1, data=17), r"data is int 17, expected Pixels\(levels\) or Continuous\(\)"),
        (lambda: RNN(3), "unknown cell 3: expected one of gru, lstm"),
        (lambda: GAN(loss=["classical"]), "unknown loss"),
        (lambda: PPCA(1, method="EM"), r"unknown method 'EM' \(did you mean em\?\)"),
        (lambda: HMM(1, by="column"), "unknown by 'column': expected one of row, pixel"),
        (lambda: SSM(selective="no"), "selective is str 'no', expected True or False"),
        (lambda: VAE(free_bits=math.nan), "free_bits must not be negative"),
    ],
)
def test_arguments_that_make_no_sense(make, message):
    with pytest.raises(NelboError, match=message):
        make()


IMAGES = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_budget": "2m"}, "time_budget must be a number, got str '2m'"),
        ({"time_budget": 0}, "time_budget must be positive, got 0"),
        ({"seed": 1.5}, "seed must be a whole number, got float 1.5"),
        ({"seed": 2**64}, r"seed must be below 2\^63"),
        ({"data": "pixels"}, "data is str 'pixels', expected Pixels"),
    ],
)
def test_fits_that_make_no_sense(options, message):
    with pytest.raises(NelboError, match=message):
        PPCA(1).fit(IMAGES, device="cpu", **options)


def test_a_fitted_model_takes_images_and_one_generator_an_image():
    model = PPCA(1).fit(IMAGES, device="cpu", seed=-1)
    with pytest.raises(NelboError, match="a batch of no images"):
        model.evidence(IMAGES[:0])
    with pytest.raises(NelboError, match="1 generators for 3 images"):
        model.sample(3, generator=[torch.Generator()])


@pytest.mark.parametrize(
    "ask",
    [
        lambda: PPCA(1).encoder(IMAGES),
        lambda: PPCA(1).latent_chain,
        lambda: LDS(1).system,
        lambda: HMM(1).chain_parameters,
        lambda: VAE().encoder(IMAGES),
        lambda: VAE().importance_weighted_elbo(IMAGES, paths=2),
        lambda: MarkovModel(1).conditionals(1).send(None),
        lambda: RNN().evidence(IMAGES),
    ],
)
def test_a_family_that_is_not_fitted_has_nothing_yet(ask):
    with pytest.raises(NelboError, match="is not fitted yet: call fit first"):
        ask()
    assert not hasattr(PPCA(1), "weight")
    with pytest.raises(NelboError, match=r"nelbo.load one$"):  # and not of what it is asked for
        RNN().sample(1)


def test_what_a_model_has_not_is_a_usual_error():
    model = PPCA(1).fit(IMAGES, device="cpu")
    with pytest.raises(AttributeError, match="no attribute 'wait'") as raised:
        model.wait  # noqa: B018
    assert not isinstance(raised.value, NelboError)


def test_seeds_may_be_any_whole_numbers_and_images_may_have_a_graph():
    fits = [
        HMM(2).fit(images, device="cpu", seed=seed).evidence(IMAGES).total
        for images, seed in ((IMAGES, 3), (IMAGES.clone().requires_grad_(), np.int64(3)))
    ]
    assert torch.equal(*fits)
    assert not fits[1].requires_grad


def test_values_that_are_missing_are_named():
    holes = IMAGES.clone()
    holes[:2, 0, 0, 0] = math.nan
    with pytest.raises(NelboError, match=r"2 values are missing .* only PPCA\(..., method='em'\)"):
        LDS(1).fit(holes, device="cpu")
    with pytest.raises(NelboError, match="data holds 2 values that are not finite"):
        PPCA(1, method="em").fit(holes, device="cpu").evidence(holes)
    with pytest.raises(NelboError, match="data holds 2 values that are not finite"):
        Pixels(17).check(holes)


def test_whole_numbers_are_shares_and_weights_too():
    assert RNN(dropout=0).dropout == SSM(dropout=0).dropout == 0
    assert (VAE(beta=1, free_bits=0).free_bits, LDS(1, tolerance=0).tolerance) == (0, 0)


@pytest.mark.parametrize(
    ("costs", "steps", "best"),
    [
        ([5.0, 4.0, 3.9, 3.8, 1.0], 4, 1),  # 0.1 and 0.1 are less than 0.5 together
        ([5.0, 4.0, 3.7, 3.4, 3.6, 3.5, 1.0], 6, 3),  # 0.3 and 0.3 are not
        ([math.nan] * 4, 3, 0),  # the cost of what is fitted, which stays
    ],
)
def test_iterations_end_where_they_no_longer_help(costs, steps, best):
    taken, kept = iter(enumerate(costs)), []

    def step():
        number, cost = next(taken)
        return number, 0.0 if math.isnan(cost) else 9.0, cost

    found = list(iterate(step, kept.append, 0.5, Budget(None), patience=2))
    assert [one.number for one in found] == list(range(1, steps + 1))
    assert kept == [best]


@pytest.mark.parametrize(
    "model",
    [
        *(HMM(10**6), LDS(10**6), LDS(10**12), VAE(10**10), VAE(width=8 * 10**7)),
        *(RNN(width=10**7), RNN(width=2**40), SSM(width=8, states=10**12), GAN(10**12)),
    ],
    ids=lambda model: f"{model.name} {model.options}",
)
def test_a_model_beyond_the_memory_is_refused_before_it_is_built(model):
    with pytest.raises(NelboError, match=r"take .* GB are free: choose a smaller model"):
        model.fit(torch.zeros(4, 1, 4, 3), data=Pixels(5), device="cpu")
    assert model.shape is None


@pytest.mark.parametrize("order", [9, 4000, 10**6, 2**62])
def test_a_table_beyond_the_memory_is_refused(order):
    with pytest.raises(NelboError, match="use an order of at most 8"):
        MarkovModel(order).fit(torch.zeros(4, 1, 4, 3), data=Pixels(5), device="cpu")
    MarkovModel(2).fit(torch.zeros(4, 1, 4, 3), data=Pixels(5), device="cpu")


def test_no_latents_are_a_plain_normal():
    x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = maximum_likelihood(x, 0, 0.0)
    torch.testing.assert_close(found.variance, (x - x.mean(0)).square().mean())
    assert found.weight.shape == (3, 0)
    # An LDS of one value a row begins with it.
    levels = torch.randint(17, (60, 1, 4, 1), generator=torch.Generator().manual_seed(0))
    model = LDS(1, tolerance=0.01).fit(Pixels(17).to_network(levels), data=Pixels(17), device="cpu")
    bits = model.evidence(Pixels(17).to_network(levels)).mean().bits_per_dim.mean
    assert bits < math.log2(17) + 0.2


def test_encoders_and_decoders_name_a_shape_that_does_not_fit():
    model = PPCA(2).fit(IMAGES)
    vae = VAE(2, width=8).fit(IMAGES, time_budget=0.01)
    for encoder in (model.encoder, vae.encoder):
        with pytest.raises(NelboError, match=r"x has shape \(6, 1, 1, 2\), expected \(6, 1, 2, 2"):
            encoder(IMAGES[:, :, :1])
    with pytest.raises(NelboError, match=r"z has shape \(3, 1\), expected \(3, 2\)"):
        model.decoder(torch.zeros(3, 1))


def test_families_are_named_with_their_article():
    named = {family(2): noun for family, noun in ((PPCA, "a PPCA"), (HMM, "an HMM"))}
    assert [model.noun for model in named] == list(named.values())
    assert [model.title for model in named] == ["A PPCA", "An HMM"]
