"""The bound of latent pipelines over a data set: those of diffusers, with captions or without."""

from __future__ import annotations

import json

import pytest
import torch

import nelbo
from nelbo import LatentBound, NelboError, fit_decoder_scale
from nelbo.chain.estimators import Uniform
from nelbo.data import ImageData, load_data
from nelbo.evidence.evaluation import calls_per_image, evaluate, evaluate_to_error
from nelbo.evidence.inputs import condition_for
from nelbo.families import VAE
from tests.formats import tiny


def pictures(captions=None) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return ImageData("made", images, 256, tuple("abcde"), captions=captions)


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    path = tmp_path_factory.mktemp("stable")
    tiny.stable_diffusion(path)
    return path / "pipeline"


def test_stable_diffusion_has_a_bound_on_captioned_images(stable, monkeypatch):
    model = nelbo.load(stable)
    assert model.decoder_scale is None
    data = pictures(("red cat", "dog", None, "", "cat"))
    with pytest.raises(NelboError, match=r"set model\.decoder_scale"):
        list(evaluate(model, data, levels=2))
    model.decoder_scale = fit_decoder_scale(model, data)

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    batches = list(evaluate(model, data, levels=3, batch_size=2, generator=seeded()))
    assert [len(bound) for bound in batches] == [2, 2, 1]
    bound = LatentBound.cat(batches)
    assert isinstance(bound, LatentBound)
    assert bound.dims == 3 * 16 * 16
    assert bound.levels.shape == (5, 3)

    # Every image with its own caption, whichever batch it is in; none is the empty prompt.
    seen = []
    whole = type(model).elbo

    def elbo(self, x_0, condition=None, *, levels=None, generator=None):
        seen.append((x_0, condition.text, generator.initial_seed()))
        return whole(self, x_0, condition, levels=levels, generator=generator)

    monkeypatch.setattr(type(model), "elbo", elbo)
    again = LatentBound.cat(list(evaluate(model, data, levels=3, batch_size=2, generator=seeded())))
    torch.testing.assert_close(again.elbo, bound.elbo)
    x_0, text, seeds = zip(*seen, strict=True)
    torch.testing.assert_close(torch.cat(x_0), data.images.float() / 127.5 - 1)
    prompts = ["red cat", "dog", "", "", "cat"]
    torch.testing.assert_close(torch.cat(text), model.text.encode(prompts))
    assert len(set(seeds)) == 3


def test_images_without_captions_are_told_the_empty_prompt(stable):
    model = nelbo.load(stable)
    text = condition_for(model, pictures()).text
    torch.testing.assert_close(text, model.text.encode([""]).expand(5, -1, -1))


def test_an_unconditional_pipeline_keeps_its_scale(tmp_path):
    tiny.unconditional(tmp_path / "a")
    model = nelbo.load(tmp_path / "a")
    model.decoder_scale = fit_decoder_scale(model, pictures())
    nelbo.save(model, tmp_path / "b")
    again = nelbo.load(tmp_path / "b")
    bounds = [
        nelbo.Bound.cat(
            evaluate(m, pictures(), levels=2, generator=torch.Generator().manual_seed(0))
        )
        for m in (model, again)
    ]
    torch.testing.assert_close(bounds[0].elbo, bounds[1].elbo)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("decoder_scale", "wide", "decoder_scale is 'wide', expected a number"),
        ("decoder_scale", 0, "decoder_scale must be positive"),
        ("pixels", {"kind": "pixels", "levels": 0}, "pixels is .*expected"),
    ],
)
def test_damaged_notes_are_explained(field, value, message, tmp_path):
    tiny.unconditional(tmp_path)
    model = nelbo.load(tmp_path)
    nelbo.save(model, tmp_path)
    file = tmp_path / "nelbo.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(NelboError, match=message) as error:
        nelbo.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_prior_and_pixels_must_be_of_their_kinds(stable):
    model = nelbo.load(stable)
    with pytest.raises(NelboError, match=r"data=Continuous\(\)"):
        nelbo.LatentDiffusion(
            model.autoencoder, nelbo.Diffusion(model.prior.network, model.prior.schedule)
        )
    with pytest.raises(NelboError, match="decoder_scale must be positive"):
        nelbo.LatentDiffusion(model.autoencoder, model.prior, decoder_scale=-1.0)
    model.decoder_scale = 0.1
    with pytest.raises(NelboError, match="not on the model's 256 pixel levels"):
        model.elbo(torch.full((1, 3, 16, 16), 0.123))
    x = model.data.to_network(pictures().images)
    with pytest.raises(NelboError, match="condition has batch size 2, expected 5"):
        model.elbo(x, model.condition_on(["cat", "dog"]))
    z = torch.zeros(2, 4, 8, 8)
    with pytest.raises(NelboError, match="level 2 and others"):
        model.p_step(z, torch.tensor([2, 3]))


def test_a_condition_takes_the_place_of_a_prompt(stable):
    model, x_T = nelbo.load(stable), torch.randn(2, 4, 8, 8)
    sampler = nelbo.samplers.DDIM(2)
    condition = model.condition_on(["red cat", "dog"])
    for guidance in (1.0, 3.0):
        by_prompt = model.sample(2, sampler, prompt=["red cat", "dog"], guidance=guidance, x_T=x_T)
        by_condition = model.sample(2, sampler, condition=condition, guidance=guidance, x_T=x_T)
        torch.testing.assert_close(by_condition, by_prompt)
    with pytest.raises(NelboError, match="either a condition, or a prompt"):
        model.sample(2, sampler, condition=condition, prompt="dog")


def test_a_model_without_levels_is_evaluated_in_one_call_an_image(generator):
    """Its last reading has as many network evaluations as its evidence."""
    data = load_data("digits", "test").subset(7, seed=0)
    model = VAE(2, width=8).fit(data, time_budget=0.5)
    *_, last = evaluate_to_error(model, data, 0.1, batch_size=4, generator=generator)
    assert last.bound is not None
    assert last.calls == last.planned == int(last.bound.calls.sum())
    assert len(last.bound.total) == 7


@pytest.mark.parametrize("levels", [None, 3, Uniform(3), Uniform(3, antithetic=True)])
def test_calls_of_an_image_are_known_before(stable, levels):
    """What is expected to be called, as the bound then counts it."""
    model = nelbo.load(stable)
    model.decoder_scale = 0.3
    x = model.data.to_network(pictures().images[:1].long())
    found = model.elbo(x, levels=levels, generator=torch.Generator().manual_seed(0))
    assert calls_per_image(model, levels) == int(found.calls)


def test_a_loss_is_of_the_condition_that_is_given_or_of_the_empty_prompt(stable):
    model = nelbo.load(stable)
    x = model.data.to_network(pictures().images)

    def loss(condition) -> float:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            return float(nelbo.loss(model, x, condition, generator=generator))

    assert loss(None) == loss(model.condition_on([""] * 5))
    assert loss(None) != loss(model.condition_on(["red cat"] * 5))


def test_the_way_from_one_prompt_to_another_is_straight_and_has_both_ends(stable):
    model = nelbo.load(stable)
    found = model.condition_between("red cat", None, 5).text
    first, last = model.text.encode(["red cat", ""])
    expected = torch.stack([first + k / 4 * (last - first) for k in range(5)])
    torch.testing.assert_close(found, expected)
    with pytest.raises(NelboError, match="frames must be at least 2"):
        model.condition_between("red cat", None, 1)
