"""Latents encoded once, and the objective of the prior over them."""

from __future__ import annotations

import json
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch

import nelbo
from nelbo import (
    Condition,
    Continuous,
    Diffusion,
    LatentDiffusion,
    NelboError,
    NoiseSchedule,
    TextEncoder,
    UNet,
)
from nelbo.chain.distributions import draw
from nelbo.data import ImageData
from nelbo.diffusion.level_samplers import shifted_probabilities
from nelbo.diffusion.objectives import BatchPart, Objective
from nelbo.diffusion.weighting import MinSNR
from nelbo.networks import TextUNetConfig
from nelbo.samplers import DDIM
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.autoencoder.objective import AutoencoderObjective
from nelbo.training.kinds.latent.latents import encode_data, unit_scale
from nelbo.training.kinds.latent.objective import PriorObjective
from nelbo.training.kinds.latent.task import PriorTask
from nelbo.training.task import Batch
from tests.formats import tiny
from tests.latent.test_model import make
from tests.training.test_autoencoder import autoencoder

CAPTIONS = ["red square", "blue square", "red field", "blue field"]


def picture(caption: str, size: int = 16) -> torch.Tensor:
    colour, shape = caption.split()
    image = torch.full((3, size, size), 255, dtype=torch.uint8)
    value = torch.tensor([220, 30, 40] if colour == "red" else [20, 60, 200], dtype=torch.uint8)
    margin = size // 4 if shape == "square" else 0
    image[:, margin : size - margin, margin : size - margin] = value[:, None, None]
    return image


def pictures(repeats: int = 2) -> tuple[ImageData, list[str]]:
    captions = CAPTIONS * repeats
    images = torch.stack([picture(caption) for caption in captions])
    return ImageData("made", images, 256, tuple(captions)), captions


def text_model(seed: int = 0) -> LatentDiffusion:
    """A small Stable Diffusion with nothing but random weights, made by nelbo alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = TextEncoder.for_captions(CAPTIONS, width=16, layers=1, heads=2, vocabulary=600)
        config = TextUNetConfig(
            sample_size=8,
            cross_attention_dim=16,
            attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            **tiny.LAYERS,
        )
        # Layers that start at zero would hide the condition of the prior.
        network = tiny.randomise(UNet(config)).train()
        prior = Diffusion(
            network, NoiseSchedule.scaled_linear(), data=Continuous(), shape=(4, 8, 8)
        )
        return LatentDiffusion(autoencoder(), prior, text=text, scale=0.5)


def test_latents_are_those_of_the_encoder_at_the_scale_of_the_prior():
    model, (data, captions) = text_model(), pictures()
    latents = encode_data(model, data, captions, batch_size=3)
    with torch.no_grad():
        q = model.encode(model.data.to_network(data.images))
    torch.testing.assert_close(latents.mean, q.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(latents.stddev, q.stddev, rtol=1e-4, atol=1e-5)
    assert torch.equal(latents.tokens, model.text.tokens(captions))
    assert len(latents.take(torch.tensor([3, 1]))) == 2

    named = replace(data, captions=(*captions[:-1], None))
    assert torch.equal(encode_data(model, named).tokens[:-1], latents.tokens[:-1])
    assert torch.equal(encode_data(model, named).tokens[-1:], model.text.tokens([""]))

    draws = torch.cat([draw(q) for _ in range(200)])
    assert unit_scale(latents) * draws.std().item() == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("objective", ["simple", "bound"])
def test_the_objective_is_the_priors_over_drawn_latents_and_captions(objective):
    model, (data, captions) = text_model().eval(), pictures()
    latents = encode_data(model, data, captions)
    share = 0.5
    module = PriorObjective(model, condition_dropout=share)
    terms = module(
        latents, objective=Objective(objective), generator=torch.Generator().manual_seed(3)
    )

    generator = torch.Generator().manual_seed(3)
    z = latents.mean + latents.stddev * torch.randn(latents.mean.shape, generator=generator)
    dropped = torch.rand(len(data), generator=generator) < share
    assert 0 < dropped.sum() < len(data)
    told = ["" if drop else c for c, drop in zip(captions, dropped.tolist(), strict=True)]
    condition = Condition(text=model.text.encode(told))
    theirs = Objective(objective)(model.prior, z, condition, generator=generator)
    torch.testing.assert_close(terms.loss, theirs.loss)
    torch.testing.assert_close(terms.nelbo, theirs.nelbo)


def test_every_setting_of_levels_reaches_the_prior():
    """A trainer of latents passes on what it passes on for pixels."""
    model, (data, captions) = text_model().eval(), pictures()
    latents = encode_data(model, data, captions)
    settings = {"objective": "min_snr", "snr_gamma": 2.0, "input_perturbation": 0.1}
    task = PriorTask(
        PriorObjective(model, condition_dropout=0.0),
        latents,
        TrainingConfig(level_sampler="importance", **settings),
    )
    assert task.level_sampler.learns
    every, index = BatchPart(0, len(data), len(data)), torch.arange(len(data))
    batch = Batch(0, index, every, torch.Generator().manual_seed(5))
    terms = task.terms(task.objective, batch)

    generator = torch.Generator().manual_seed(5)
    z = latents.mean + latents.stddev * torch.randn(latents.mean.shape, generator=generator)
    torch.rand(len(data), generator=generator)  # which captions are dropped
    condition = Condition(text=model.text(latents.tokens))
    objective = Objective(MinSNR(2.0), input_perturbation=0.1)
    theirs = objective(model.prior, z, condition, generator=generator)
    torch.testing.assert_close(terms.loss, theirs.loss)
    shifted = TrainingConfig(objective="simple", level_shift=3.0)
    expected = shifted_probabilities(model.prior.num_levels, 3.0)
    sampler = PriorTask(PriorObjective(model), latents, shifted).level_sampler
    assert torch.equal(sampler.probabilities, expected)


def test_prior_and_text_encoder_learn_together_and_the_autoencoder_does_not():
    model, (data, captions) = text_model(), pictures()
    module = PriorObjective(model)
    module(encode_data(model, data, captions)).loss.backward()
    names = {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None}
    assert names == {"prior", "text"}
    tokens = model.text.model.embeddings.token_embedding.weight.grad
    assert tokens.abs().sum() > 0
    assert all(p.grad is None for p in model.autoencoder.parameters())


def test_a_model_without_text_needs_no_captions():
    model = make()
    data, captions = pictures()
    latents = encode_data(model, data)
    assert latents.tokens is None
    assert latents.labels is None
    z_terms = PriorObjective(model)(latents, generator=torch.Generator().manual_seed(0))
    assert z_terms.loss.isfinite()
    with pytest.raises(NelboError, match="without a text encoder"):
        encode_data(model, data, captions)


def test_mistakes_are_explained():
    model, (data, captions) = text_model(), pictures()
    for given, message in (
        (captions[:-1], "has 8 images but 7 captions"),
        (None, "needs a caption for each image"),
    ):
        with pytest.raises(NelboError, match=message):
            encode_data(model, data, given)
    with pytest.raises(NelboError, match="must lie in"):
        PriorObjective(model, condition_dropout=1.0)
    module = PriorObjective(model)
    latents = encode_data(model, data, captions)
    wrong = latents.take(slice(None))
    object.__setattr__(wrong, "mean", wrong.mean[..., :4])
    with pytest.raises(NelboError, match=r"latents have shape \(4, 8, 4\), the prior is over"):
        module(wrong)
    object.__setattr__(latents, "tokens", None)
    with pytest.raises(NelboError, match="needs latents with tokens"):
        module(latents)


def take_steps(module: torch.nn.Module, batch, steps: int, rate: float) -> list:
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], rate)
    history = []
    for step in range(steps):
        terms = module(batch, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
        history.append(terms)
    return history


def test_what_was_trained_from_scratch_is_a_stable_diffusion_pipeline(tmp_path):
    """Every part is nelbo's own; diffusers draws the same image from the same noise."""
    model, (data, captions) = text_model(), pictures()
    x = model.data.to_network(data.images)
    take_steps(AutoencoderObjective(model.autoencoder.train()), x, 3, 1e-3)
    latents = encode_data(model, data, captions)
    model.scale = model.scale * unit_scale(latents)
    model.decoder_scale = 0.125
    latents = encode_data(model, data, captions)
    history = take_steps(PriorObjective(model.train()), latents, 25, 3e-3)
    mean = [sum(t.loss.item() for t in part) / 5 for part in (history[:5], history[-5:])]
    assert mean[1] < 0.9 * mean[0]

    nelbo.save(model.eval(), tmp_path)
    own = json.loads((tmp_path / "nelbo.json").read_text())
    assert own["decoder_scale"] == 0.125
    assert own["pixels"] == {"kind": "pixels", "levels": 256}
    again = nelbo.load(tmp_path)
    assert again.decoder_scale == 0.125
    assert again.scale == pytest.approx(model.scale)
    assert again.data == model.data

    peer = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    assert peer.safety_checker is None
    peer.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = peer(
        ["red square", ""],
        negative_prompt=["blue", "field"],
        num_inference_steps=4,
        guidance_scale=3.0,
        latents=noise,
        output_type="np",
    ).images
    ours = again.sample(
        2,
        nelbo.load_sampler(tmp_path, 4),
        prompt=["red square", ""],
        negative_prompt=["blue", "field"],
        guidance=3.0,
        x_T=noise,
    )
    ours = (ours / 2 + 0.5).permute(0, 2, 3, 1).numpy()
    assert theirs.std() > 0.05
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    kept = model.sample(1, DDIM(4), prompt="red square", x_T=noise[:1])
    torch.testing.assert_close(again.sample(1, DDIM(4), prompt="red square", x_T=noise[:1]), kept)


def test_its_bound_on_captioned_images(tmp_path):
    model, (data, captions) = text_model().eval(), pictures()
    x = model.data.to_network(data.images)
    with torch.no_grad(), pytest.raises(NelboError, match="fit_decoder_scale"):
        model.elbo(x)
    model.decoder_scale = 0.5
    with torch.no_grad():
        bounds = [
            model.elbo(x, condition, levels=4, generator=torch.Generator().manual_seed(0))
            for condition in (model.condition_on(captions), model.condition_on([""] * 8), None)
        ]
    told, empty, nothing = (bound.elbo for bound in bounds)
    torch.testing.assert_close(empty, nothing)
    assert (told - empty).abs().max() > 0
    assert bounds[0].dims == 3 * 16 * 16
    summary = nelbo.Bound.cat([bounds[0], bounds[1]]).mean()
    costs = summary.in_bits
    assert set(costs) == {
        "reconstruction",
        "entropy",
        "latent_reconstruction",
        "prior_matching",
        "score_matching",
        "total",
    }
    total = sum(cost.mean for name, cost in costs.items() if name != "total")
    assert total == pytest.approx(costs["total"].mean)
    assert costs["total"].mean == pytest.approx(
        torch.cat([told, empty]).mean().item() / -(768 * np.log(2))
    )
    with pytest.raises(NelboError, match="images have shape"):
        model.elbo(x[..., :8])
    with pytest.raises(NelboError, match="without a text encoder"):
        make().condition_on(captions)
