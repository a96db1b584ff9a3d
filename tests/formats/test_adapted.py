"""Pipelines through diffusers: their pictures, their bound, what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

import nelbo
from nelbo import NelboError
from nelbo.chain.distributions import normal
from tests.formats import tiny, tiny_flows
from tests.formats.tiny_flows import BUILDERS, Tiny

PROMPT, NEGATIVE, SCALE = "red cat", "dog", 3.0
WEIGHTS = "diffusion_pytorch_model.safetensors"
_built: dict[str, Tiny] = {}


def built(name: str, tmp_path_factory, **options) -> Tiny:
    """A tiny pipeline of a class, one for all tests."""
    key = name + str(options)
    if key not in _built:
        _built[key] = BUILDERS[name](tmp_path_factory.mktemp(name), **options)
    return _built[key]


@pytest.fixture(params=BUILDERS)
def pipeline(request, tmp_path_factory) -> Tiny:
    return built(request.param, tmp_path_factory)


@pytest.fixture
def stable(tmp_path_factory, tmp_path) -> Path:
    """A copy of a Stable Diffusion 3, to damage."""
    shutil.copytree(built("StableDiffusion3Pipeline", tmp_path_factory).path, tmp_path / "copy")
    return tmp_path / "copy"


def change(file: Path, **fields) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | fields))


def latents(model: nelbo.LatentDiffusion, n: int = 1) -> torch.Tensor:
    return torch.randn(n, *model.prior.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("steps", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_guided_samples_equal_those_of_diffusers(pipeline, steps):
    model = nelbo.load(pipeline.path)
    z, sampler = latents(model), nelbo.load_sampler(pipeline.path, steps)
    guided = {"negative_prompt": NEGATIVE, "guidance": SCALE}
    x = model.sample(1, sampler, prompt=PROMPT, x_T=z, **guided) / 2 + 0.5
    expected = pipeline.draw(z, steps, PROMPT, NEGATIVE, SCALE)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.05
    assert (expected - pipeline.draw(z, steps, PROMPT)).abs().max() > 1e-3


@pytest.mark.parametrize("steps", [7, pytest.param(20, marks=pytest.mark.slow)])
def test_samples_equal_those_of_diffusers(pipeline, steps):
    model = nelbo.load(pipeline.path)
    z, sampler = latents(model), nelbo.load_sampler(pipeline.path, steps)
    x = model.sample(1, sampler, prompt=PROMPT, x_T=z) / 2 + 0.5
    torch.testing.assert_close(x, pipeline.draw(z, steps, PROMPT), rtol=0, atol=1e-4)


def answer_of(pipeline: Tiny, model: nelbo.LatentDiffusion, x, time, text):
    """What diffusers' own network answers at a state of its own and the time 0..1000."""
    network, kind = pipeline.pipeline.transformer, type(pipeline.pipeline).__name__
    whole = (time + 1e-3).floor()
    masked = {"encoder_attention_mask": text.text_mask, "encoder_hidden_states": text.text}
    if kind == "StableDiffusion3Pipeline":
        pooled = {"pooled_projections": text.pooled_text}
        return network(x, encoder_hidden_states=text.text, timestep=time, **pooled).sample
    if kind == "SanaPipeline":
        return network(x, timestep=whole, **masked).sample
    if kind == "PixArtSigmaPipeline":
        added = {"resolution": None, "aspect_ratio": None}
        return network(x, timestep=time, added_cond_kwargs=added, **masked).sample
    if kind == "ZImagePipeline":
        texts = [t[m.bool()] for t, m in zip(text.text, text.text_mask, strict=True)]
        frames = list(x.unsqueeze(2))
        return -torch.stack(network(frames, (1000 - time) / 1000, texts)[0]).squeeze(2)
    packed = tiny_flows.pack(x)
    height, width = x.shape[2:]
    more = {"encoder_hidden_states": text.text, "timestep": time / 1000}
    if kind == "QwenImagePipeline":
        more["img_shapes"] = [[(1, height // 2, width // 2)]] * len(x)
        more["encoder_hidden_states_mask"] = text.text_mask
    else:
        ids = diffusers.FluxPipeline._prepare_latent_image_ids
        more |= {
            "pooled_projections": text.pooled_text,
            "txt_ids": torch.zeros(text.text.shape[1], 3),
            "img_ids": ids(1, height // 2, width // 2, "cpu", x.dtype),
        }
    tokens = network(packed, **more).sample
    return diffusers.FluxPipeline._unpack_latents(tokens, 2 * height, 2 * width, 2)


@torch.no_grad()
def test_terms_of_the_bound_are_those_of_the_network(pipeline):
    """KL(q(z_{t−1}|z_t, z_0) ‖ p) at a level, computed by hand from what diffusers answers."""
    model = nelbo.load(pipeline.path)
    prior, schedule = model.prior, model.prior.schedule
    z, noise = latents(model, 4).chunk(2)
    text = model.condition_on([PROMPT, NEGATIVE])
    t = 400
    z_t = prior.diffuse(z, noise, t)
    a, s = float(schedule.signal_scale[t]), float(schedule.noise_scale[t])
    is_flow = prior.prediction == "velocity"
    w = s / (a + s)
    time = torch.full((2,), 1000 * w if is_flow else t - 1.0)
    state = z_t / (a + s) if is_flow else z_t
    answer = answer_of(pipeline, model, state, time, text).double()
    beta, small = float(schedule.betas[t]), float(schedule.posterior_variance[t])
    if is_flow:
        x_0, variance = state - w * answer, torch.tensor(beta).double()
    else:
        answer, spread = answer.chunk(2, 1)
        x_0 = (z_t - s * answer) / a
        f = (spread + 1) / 2
        variance = (f * torch.tensor(beta).log() + (1 - f) * torch.tensor(small).log()).exp()
    weight = float(schedule.posterior_data_weight[t])
    kept = float(schedule.posterior_latent_weight[t])
    q = normal(weight * z + kept * z_t, torch.tensor(small).sqrt().expand_as(z))
    p = normal(weight * x_0 + kept * z_t, variance.sqrt().expand_as(z))
    expected = torch.distributions.kl_divergence(
        normal(q.mean.double(), q.stddev.double()), p
    ).flatten(1)
    found = prior.score_matching(z, z_t, t, text)
    torch.testing.assert_close(found.double(), expected.sum(1), rtol=2e-4, atol=1e-4)


@torch.no_grad()
def test_the_bound_of_pictures(pipeline):
    model = nelbo.load(pipeline.path)
    model.decoder_scale = 0.2
    x = torch.randint(0, 256, (2, *model.shape), generator=torch.Generator().manual_seed(1))
    x_0 = model.data.to_network(x)
    bound = model.evidence(x_0, model.condition_on([PROMPT] * 2), levels=3)
    assert bound.total.isfinite().all()
    assert bound.dims == x[0].numel()
    # The autoencoder's own terms, from diffusers'.
    vae = pipeline.pipeline.vae
    kind = type(vae).__name__
    if kind == "AutoencoderKL":
        std = vae.encode(x_0).latent_dist.std * vae.config.scaling_factor
    elif kind == "AutoencoderKLQwenImage":
        std = vae.encode(x_0.unsqueeze(2)).latent_dist.std.squeeze(2)
        std = std / torch.tensor(vae.config.latents_std).view(-1, 1, 1)
    else:
        std = torch.full((2, *model.prior.shape), 0.1)
    entropy = torch.distributions.Normal(0.0, std).entropy().flatten(1).sum(1)
    torch.testing.assert_close(bound.entropy, entropy, rtol=1e-4, atol=1e-3)
    assert bound.prior_matching.abs().max() < (1e-3 if model.prior.prediction == "velocity" else 1)


def test_what_is_saved_is_what_was_read(pipeline, tmp_path):
    model, steps = nelbo.load(pipeline.path), 2
    model.decoder_scale = 0.25
    nelbo.save(model, tmp_path / "out", sampler=nelbo.load_sampler(pipeline.path, steps))
    found = nelbo.load(tmp_path / "out")
    assert found.decoder_scale == 0.25
    assert found.identity() == model.identity()
    z = latents(model)
    expected, again = (
        m.sample(1, nelbo.load_sampler(p, steps), prompt=PROMPT, x_T=z)
        for m, p in ((model, pipeline.path), (found, tmp_path / "out"))
    )
    assert torch.equal(expected, again)
    kind = type(pipeline.pipeline)
    theirs = kind.from_pretrained(tmp_path / "out")
    for name, weight in theirs.transformer.state_dict().items():
        assert torch.equal(weight, pipeline.pipeline.transformer.state_dict()[name])
    with pytest.raises(NelboError, match="keeps the scheduler that it came with"):
        nelbo.save(model, tmp_path / "other", sampler=nelbo.samplers.Heun(4))
    with pytest.raises(NelboError, match="respaced chain cannot be saved"):
        nelbo.save(model.respace([10, 500, 1000]), tmp_path / "other")


def test_prompts_of_different_lengths_share_a_batch(pipeline):
    model = nelbo.load(pipeline.path)
    prompts = ["a", PROMPT + " and a dog", None]
    together = model.condition_on(prompts)
    z, time = latents(model, 3), 300
    with torch.no_grad():
        batch = model.prior.predict(z, time, together).output
        for i, prompt in enumerate(prompts):
            one = model.prior.predict(z[i : i + 1], time, model.condition_on([prompt])).output
            torch.testing.assert_close(batch[i : i + 1], one, rtol=1e-4, atol=1e-5)


def test_embedded_guidance_is_another_model(tmp_path_factory):
    flux = built("FluxPipeline", tmp_path_factory, distilled=True)
    model, sampler = nelbo.load(flux.path), nelbo.load_sampler(flux.path, 4)
    z = latents(model)
    assert model.embedded_guidance == 3.5
    drawn = []
    for asked, embedded in ((1.0, 3.5), (7.0, 7.0)):
        x = model.sample(1, sampler, prompt=PROMPT, guidance=asked, x_T=z) / 2 + 0.5
        drawn.append(flux.draw(z, 4, PROMPT, guidance_scale=embedded))
        torch.testing.assert_close(x, drawn[-1], rtol=0, atol=1e-4)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-4
    # With a negative prompt guidance is classifier-free, beside the embedded one.
    own = {"negative_prompt": NEGATIVE, "guidance": SCALE, "x_T": z}
    x = model.with_embedded_guidance(2.0).sample(1, sampler, prompt=PROMPT, **own) / 2 + 0.5
    expected = flux.draw(z, 4, PROMPT, NEGATIVE, SCALE, guidance_scale=2.0)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-4)
    assert model.identity() != model.with_embedded_guidance(2.0).identity()
    with pytest.raises(NelboError, match="without an interval or rescale"):
        model.sample(1, sampler, prompt=PROMPT, guidance=nelbo.Guidance(2.0, rescale=0.5))
    plain = nelbo.load(built("FluxPipeline", tmp_path_factory).path)
    with pytest.raises(NelboError, match="takes no embedded guidance"):
        plain.with_embedded_guidance(2.0)


def test_a_pipeline_without_its_third_encoder(tmp_path):
    made = tiny_flows.stable_diffusion_3(tmp_path, t5_too=False)
    model, z = nelbo.load(made.path), torch.randn(1, 4, 8, 8)
    x = model.sample(1, nelbo.load_sampler(made.path, 2), prompt=PROMPT, x_T=z) / 2 + 0.5
    torch.testing.assert_close(x, made.draw(z, 2, PROMPT), rtol=0, atol=1e-4)


def test_weights_keep_their_precision(stable):
    file = stable / "transformer" / WEIGHTS
    weights = {name: w.bfloat16() for name, w in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    model = nelbo.load(stable)
    assert {w.dtype for w in model.prior.parameters()} == {torch.bfloat16}
    x = model.sample(1, nelbo.load_sampler(stable, 2), prompt=PROMPT, x_T=latents(model))
    assert x.dtype == torch.float32


@pytest.mark.parametrize(
    ("part", "fields", "match"),
    [
        ("model_index.json", {"_class_name": "AuraFlowPipeline"}, "docs/your-own-network.md"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderDC"]}, "vae is of class"),
        ("model_index.json", {"tokenizer": [None, None]}, "no 'tokenizer', expected a tokenizer"),
        (
            "transformer/config.json",
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            r"quantised \(bitsandbytes\).*dequantize\(\)",
        ),
        (
            "text_encoder_3/config.json",
            {"quantization_config": {"quant_method": "gptq"}},
            r"quantised \(gptq\)",
        ),
        ("scheduler/scheduler_config.json", {"invert_sigmas": True}, "invert_sigmas=True is not"),
        ("transformer/config.json", {"num_layers": 5}, "cannot be read"),
        ("transformer/config.json", {"in_channels": "x"}, "in_channels is 'x', expected an int"),
        ("transformer/config.json", {"sample_size": [8]}, r"sample_size is \[8\], expected an"),
        ("nelbo.json", {"shape": [4, 8]}, r"shape is \[4, 8\], expected \[channels, height"),
        ("nelbo.json", {"shape": [4, 9, 8]}, "9×8, which patches of 2 do not divide"),
    ],
)
def test_mistakes(stable, part, fields, match):
    change(stable / part, **fields)
    with pytest.raises(NelboError, match=match):
        nelbo.load(stable)


def test_unknown_schedulers_and_weights_that_are_not(stable):
    index = stable / "model_index.json"
    change(index, scheduler=["diffusers", "CogVideoXDPMScheduler"])
    with pytest.raises(NelboError, match="CogVideoXDPMScheduler"):
        nelbo.load(stable)
    change(index, scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    file = stable / "transformer" / WEIGHTS
    weights = load_file(file)
    small = {name: w.to(torch.float8_e4m3fn) for name, w in weights.items()}
    save_file(small, file, metadata={"format": "pt"})
    with pytest.raises(NelboError, match=r"quantised \(F8_E4M3\)"):
        nelbo.load(stable)
    save_file({n: w * torch.nan for n, w in weights.items()}, file, metadata={"format": "pt"})
    with pytest.raises(NelboError, match="not finite"):
        nelbo.load(stable)
    file.write_bytes(b"torn")
    with pytest.raises(NelboError, match="not a complete safetensors file"):
        nelbo.load(stable)


def test_a_missing_extra_is_named(stable, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(nelbo.base.errors.MissingExtraError, match=r"nelbo\[diffusers\]"):
        nelbo.load(stable)


def test_dynamic_shift_needs_a_picture(tmp_path):
    pipeline = diffusers.DDPMPipeline(tiny.pixel_unet(), tiny_flows.flow(use_dynamic_shifting=True))
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(NelboError, match="depends on the number of tokens"):
        nelbo.load(tmp_path)
