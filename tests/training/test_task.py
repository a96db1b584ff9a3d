"""What is drawn for a batch does not depend on how it is cut, whatever is trained."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nelbo import (
    Continuous,
    Diffusion,
    LatentDiffusion,
    NelboError,
    NoiseSchedule,
    Pixels,
    UNet,
)
from nelbo.diffusion.objectives import BatchPart
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.autoencoder.objective import AutoencoderObjective
from nelbo.training.kinds.autoencoder.task import AutoencoderTask
from nelbo.training.kinds.latent.latents import encode_data
from nelbo.training.kinds.latent.objective import PriorObjective
from nelbo.training.kinds.latent.task import PriorTask
from nelbo.training.task import Batch
from tests.training.test_autoencoder import autoencoder
from tests.training.test_latents import pictures, text_model

INDEX = torch.tensor([5, 0, 3, 3, 7, 1])
PARTS = [BatchPart(0, 2, 6), BatchPart(2, 6, 6)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def labelled_model() -> LatentDiffusion:
    """An untrained latent model of three classes."""
    network = autoencoder()
    channels, factor = network.config.latent_channels, network.config.downscale
    unet = UNet(
        sample_size=16 // factor,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        num_class_embeds=3,
    )
    shape = (channels, 16 // factor, 16 // factor)
    prior = Diffusion(unet, NoiseSchedule.cosine(12), data=Continuous(), shape=shape)
    return LatentDiffusion(network, prior, scale=0.5)


def autoencoder_objective(**options) -> AutoencoderObjective:
    return AutoencoderObjective(autoencoder(), likelihood="discretized", **options).eval()


@pytest.mark.parametrize("kind", ["autoencoder", "prior"])
def test_parts_of_a_batch_are_the_batch(kind):
    data, captions = pictures()
    if kind == "autoencoder":
        module = autoencoder_objective(mirrored=0.5, recoloured=0.5)
    else:
        model = text_model()
        module = PriorObjective(model, condition_dropout=0.5).eval()
        data = encode_data(model, data, captions)
    settings = {} if kind == "autoencoder" else {"objective": "simple"}
    task_of = AutoencoderTask if kind == "autoencoder" else PriorTask
    task = task_of(module, data, TrainingConfig(**settings))
    with torch.no_grad():
        whole = task.terms(module, Batch(0, INDEX, BatchPart(0, 6, 6), generator()))
        parts = [task.terms(module, Batch(0, INDEX, part, generator())) for part in PARTS]
    torch.testing.assert_close(torch.cat([p.nelbo for p in parts]), whole.nelbo)
    loss = sum((p.stop - p.start) / 6 * terms.loss for p, terms in zip(PARTS, parts, strict=True))
    torch.testing.assert_close(loss, whole.loss)


def test_with_a_decoder_scale_the_prior_reads_the_bound_of_the_whole_image():
    data, captions = pictures(repeats=8)
    model = text_model().eval()
    model.decoder_scale = 0.3
    latents = encode_data(model, data, captions, generator=generator())
    module = PriorObjective(model, condition_dropout=0.0).eval()
    with torch.no_grad():
        whole = module(latents, generator=generator()).nelbo
        of_prior = module(replace(latents, cost=None), generator=generator()).nelbo
        x = Pixels(256).to_network(data.images)
        bound = model.elbo(x, model.condition_on(captions), levels=1, generator=generator())
    beside = -(bound.reconstruction + bound.entropy)
    assert float((whole - of_prior).mean()) == pytest.approx(float(beside.mean()), rel=0.02)
    bits = PriorTask(module, latents, TrainingConfig(objective="simple")).bits
    assert bits == pytest.approx(1 / (3 * 16 * 16 * math.log(2)))


def test_mirrored_and_recoloured_images():
    x = torch.rand(5, 3, 4, 4)
    whole = BatchPart(0, 5, 5)
    mirrored = autoencoder_objective(mirrored=1.0)._augmented(x, generator(), whole)
    assert torch.equal(mirrored, x.flip(-1))
    recoloured = autoencoder_objective(recoloured=1.0)._augmented(x, generator(), whole)
    assert torch.equal(recoloured.sort(1).values, x.sort(1).values)
    assert not torch.equal(recoloured, x)
    assert torch.equal(autoencoder_objective()._augmented(x, generator(), whole), x)
    with pytest.raises(NelboError, match=r"mirrored must lie in \[0, 1\], got 2"):
        autoencoder_objective(mirrored=2.0)


def test_what_cannot_be_trained():
    data, _ = pictures()
    objective = AutoencoderObjective(autoencoder(), Pixels(17))
    with pytest.raises(NelboError, match="256 pixel levels, the objective has 17"):
        AutoencoderTask(objective, data, TrainingConfig())


@pytest.mark.parametrize(
    "setting",
    [
        {"objective": "simple"},
        {"level_sampler": "importance"},
        {"input_perturbation": 0.1},
        {"level_shift": 2.0},
        {"snr_gamma": 2.0},
        {"sigmoid_bias": 1.0},
        {"label_dropout": 0.5},
        {"horizontal_flip": True},
    ],
)
def test_what_an_autoencoder_has_no_use_for_is_refused(setting):
    data, _ = pictures()
    (name,) = setting
    with pytest.raises(NelboError, match=f"--{name.replace('_', '-')}.*leave it out"):
        AutoencoderTask(autoencoder_objective(), data, TrainingConfig(**setting))


@pytest.mark.parametrize("told", ["tokens", "captions", "labels"])
def test_latents_of_mirrored_images_are_those_of_the_mirror_images(told):
    """Half of a batch, drawn from the step, is of images that were mirrored before encoding."""
    data, captions = pictures()
    images = data.images.clone()
    images[..., : images.shape[-1] // 2] //= 2  # no picture is its own mirror image
    data = replace(data, images=images)
    model = labelled_model() if told == "labels" else text_model()
    model.eval().decoder_scale = 0.3
    if told == "labels":
        data = replace(data, labels=torch.arange(len(data)) % 3, label_names=("a", "b", "c"))
        captions = None
    elif told == "captions":
        model.text.requires_grad_(False)
    flipped = replace(data, images=data.images.flip(-1))
    both = encode_data(model, data, captions, mirrored=True)
    halves = [encode_data(model, images, captions) for images in (data, flipped)]
    assert len(both) == 2 * len(data)
    assert torch.equal(both.keys, data.keys)
    for name in ("mean", "stddev"):
        expected = torch.cat([getattr(half, name) for half in halves])
        torch.testing.assert_close(getattr(both, name), expected)
    name = "caption_index" if told == "captions" else told
    of_both, of_half = getattr(both, name), getattr(halves[0], name)
    assert torch.equal(of_both, torch.cat([of_half, of_half]))

    module = PriorObjective(model, condition_dropout=0.0).eval()
    task = PriorTask(module, both, TrainingConfig(objective="simple", horizontal_flip=True))
    assert task.examples == len(data)
    index, every = torch.arange(8).repeat(32), BatchPart(0, 256, 256)
    seen = []

    class Watching(torch.nn.Module):
        def forward(self, latents, **options):
            seen.append(latents.mean)
            return module(latents, **options)

    for step in range(2):
        task.terms(Watching(), Batch(step, index, every, generator()))
    plain, mirror = (half.mean[index] for half in halves)
    shares = []
    for means in seen:
        is_plain, is_mirror = ((means - x).abs().flatten(1).amax(1) < 1e-5 for x in (plain, mirror))
        assert (is_plain | is_mirror).all()
        shares.append(is_mirror)
    assert 0.35 < shares[0].double().mean() < 0.65
    assert not torch.equal(*shares)


def test_a_flip_needs_the_mirror_images():
    data, captions = pictures()
    model = text_model()
    latents = encode_data(model, data, captions)
    with pytest.raises(NelboError, match="needs the latents of the mirror images as well"):
        PriorTask(PriorObjective(model), latents, TrainingConfig(horizontal_flip=True))
