"""Pipelines of transformers: `DiTPipeline`, and one of a prompt."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch

import nelbo
from nelbo import Condition, Continuous, Diffusion, LatentDiffusion, NoiseSchedule, Pixels
from nelbo.diffusion.prediction import Velocity
from nelbo.formats.pipeline import Pipeline
from nelbo.networks import DiT, TextDiT
from nelbo.samplers import DDIM, Euler
from tests.formats import tiny

SMALL = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1}


def noise(n: int) -> torch.Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("steps", [4, 20])
def test_samples_are_those_of_diffusers(guidance, steps, tmp_path):
    pipeline = tiny.dit(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    expected = pipeline(
        [0, 7], guidance, generator, num_inference_steps=steps, output_type="pt"
    ).images
    model = nelbo.load(tmp_path)
    found = model.sample(
        2,
        nelbo.load_sampler(tmp_path, steps),
        condition=Condition(label=torch.tensor([0, 7])),
        guidance=guidance,
        x_T=noise(2),
    )
    torch.testing.assert_close(found / 2 + 0.5, expected, atol=1e-4, rtol=0)


def test_half_of_the_channels_is_a_learned_variance(tmp_path):
    tiny.dit(tmp_path / "learned", classes=3)
    tiny.dit(tmp_path / "fixed", classes=3, learned=False)
    model = nelbo.load(tmp_path / "learned")
    assert isinstance(model.prior.network, DiT)
    assert (model.prior.variance, model.num_classes) == ("learned_range", 3)
    assert nelbo.load(tmp_path / "fixed").prior.variance == "fixed_small"
    nelbo.save(model, tmp_path / "copy", notes={"label_names": ["cat", "dog", "eel"]})
    copy = nelbo.load(tmp_path / "copy")
    assert copy.prior.variance == "learned_range"
    peer = diffusers.DiTPipeline.from_pretrained(tmp_path / "copy")
    assert peer.get_label_ids(["eel", "cat"]) == [2, 0]
    before = diffusers.DiTPipeline.from_pretrained(tmp_path / "learned")
    for part in ("transformer", "vae"):
        old = getattr(before, part).state_dict()
        new = getattr(peer, part).state_dict()
        assert all(torch.equal(new[name], value) for name, value in old.items())
    x = torch.rand(2, 3, *model.shape[1:]) * 2 - 1
    condition = Condition(label=torch.tensor([0, -1]))
    bounds = [
        m.prior.elbo(
            m.encode(x).mean, condition, levels=3, generator=torch.Generator().manual_seed(0)
        ).elbo
        for m in (model, copy)
    ]
    assert torch.equal(*bounds)


def test_the_name_that_early_checkpoints_have(tmp_path):
    tiny.dit(tmp_path, classes=3)
    for file, change in (
        ("model_index.json", {"transformer": ["diffusers", "Transformer2DModel"]}),
        ("transformer/config.json", {"_class_name": "Transformer2DModel"}),
    ):
        where = tmp_path / file
        where.write_text(json.dumps(json.loads(where.read_text()) | change))
    assert isinstance(nelbo.load(tmp_path).prior.network, DiT)


def test_pixels(tmp_path):
    network = tiny.randomise(DiT(**SMALL, in_channels=1, sample_size=8, num_embeds_ada_norm=0))
    kind = Velocity(10)
    model = Diffusion(
        network,
        NoiseSchedule.flow_matching(10),
        prediction=kind,
        variance="fixed_large",
        data=Pixels(17),
        shape=(1, 8, 8),
    ).eval()
    nelbo.save(model, tmp_path)
    found = nelbo.load(tmp_path)
    assert not found.is_conditional
    x_T = torch.randn(2, 1, 8, 8)
    drawn = [m.sample(2, Euler(4), x_T=x_T) for m in (model, found)]
    assert torch.equal(*drawn)
    part = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path, subfolder="transformer")
    assert isinstance(part, diffusers.DiTTransformer2DModel)


def test_a_transformer_of_a_prompt_is_a_pipeline_that_diffusers_draws_from(tmp_path):
    parts = nelbo.load(_saved_stable_diffusion(tmp_path / "parts"))
    network = TextDiT(
        **SMALL,
        sample_size=8,
        out_channels=4,
        caption_channels=tiny.WIDTH,
        cross_attention_dim=8,
    )
    prior = Diffusion(
        tiny.randomise(network),
        NoiseSchedule.scaled_linear(1000),
        prediction="v_prediction",
        data=Continuous(),
        shape=(4, 8, 8),
    )
    model = LatentDiffusion(parts.autoencoder, prior, text=parts.text, scale=parts.scale).eval()
    nelbo.save(model, tmp_path / "own", sampler=DDIM(5))
    assert Pipeline.open(tmp_path / "own").index.class_name == "PixArtAlphaPipeline"
    found = nelbo.load(tmp_path / "own")
    drawn = [
        m.sample(2, DDIM(5), prompt="red cat", guidance=2.0, x_T=noise(2)) for m in (model, found)
    ]
    assert torch.equal(*drawn)
    pipeline = diffusers.PixArtAlphaPipeline.from_pretrained(tmp_path / "own")
    pipeline.set_progress_bar_config(disable=True)
    text, empty = (model.condition_on([p, p]).text for p in ("red cat", None))
    mask = torch.ones(text.shape[:2])
    expected = pipeline(
        prompt_embeds=text,
        prompt_attention_mask=mask,
        negative_prompt=None,
        negative_prompt_embeds=empty,
        negative_prompt_attention_mask=mask,
        guidance_scale=2.0,
        num_inference_steps=5,
        latents=noise(2),
        height=8 * pipeline.vae_scale_factor,
        width=8 * pipeline.vae_scale_factor,
        use_resolution_binning=False,
        output_type="pt",
    ).images
    torch.testing.assert_close(drawn[0] / 2 + 0.5, expected, atol=1e-4, rtol=0)


def _saved_stable_diffusion(path):
    tiny.stable_diffusion(path)
    return path / "pipeline"
