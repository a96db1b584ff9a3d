"""Stable Diffusion 1.5 at its true size: it fits into memory and gives the same step and image."""

from __future__ import annotations

import gc
import json
import resource
from pathlib import Path

import pytest
import torch
import transformers
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn

import nelbo
from nelbo.chain.conditioning import Condition
from nelbo.diffusion import Continuous, Diffusion, NoiseSchedule
from nelbo.networks import AutoencoderKL, TextUNetConfig, UNet
from nelbo.networks.weights import WEIGHTS_FILE
from nelbo.text.tokenizer import train_tokenizer
from tests.formats.tiny import SCHEDULER
from tests.parity.test_published_layouts import VAE

PARAMETERS = 859_520_964
GIB = 2**30
NETWORK_TIME = 500


def random_checkpoint(directory: Path) -> None:
    """Weights of the UNet in float16, as large as those of a trained one."""
    config = TextUNetConfig(sample_size=64, cross_attention_dim=768)
    save_random(UNet, config.to_dict(), directory, PARAMETERS)


def save_random(
    kind: type[nn.Module], config: dict, directory: Path, parameters: int, seed: int = 0
) -> None:
    """Random weights in float16, without ever building the network."""
    with torch.device("meta"):
        shapes = kind.from_config(config).state_dict()
    assert sum(weight.numel() for weight in shapes.values()) == parameters
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, meta in shapes.items():
        weight = torch.randn(meta.shape, generator=generator)
        if weight.ndim > 1:
            weight /= meta[0].numel() ** 0.5
        else:
            weight = 0.1 * weight + name.endswith("weight")
        weights[name] = weight.half()
    directory.mkdir(exist_ok=True)
    save_file(weights, directory / WEIGHTS_FILE, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config))


def random_pipeline(directory: Path, side: int) -> None:
    """Every network of Stable Diffusion 1.5 at its size, for latents of `side` × `side`."""
    unet = TextUNetConfig(sample_size=side, cross_attention_dim=768).to_dict()
    save_random(UNet, unet, directory / "unet", PARAMETERS)
    save_random(AutoencoderKL, VAE | {"scaling_factor": 0.18215}, directory / "vae", 83_653_863, 1)
    tokens = train_tokenizer(["a red apple", "a red apple"], vocabulary=600, max_tokens=77)
    tokens.save_pretrained(directory / "tokenizer")
    config = transformers.CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    torch.manual_seed(2)
    text = transformers.CLIPTextModel(config)
    assert sum(weight.numel() for weight in text.parameters()) == 123_060_480
    text.half().save_pretrained(directory / "text_encoder")
    DDIMScheduler(**SCHEDULER).save_pretrained(directory / "scheduler")
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False} | parts
    (directory / "model_index.json").write_text(json.dumps(index))


def own_step(directory: Path, x_t, text, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's output and x_{t-1}, from nelbo."""
    network = UNet.from_pretrained(directory)
    assert network.dtype == torch.float32
    outputs = []

    def predict(*given) -> torch.Tensor:
        outputs.append(network(*given))
        return outputs[0]

    schedule = NoiseSchedule.scaled_linear()
    diffusion = Diffusion(predict, schedule, data=Continuous(), shape=x_t.shape[1:])
    step = diffusion.p_step(x_t, NETWORK_TIME + 1, Condition(text=text))
    noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(seed))
    return outputs[0], step.mean + step.stddev * noise


def peer_step(directory: Path, x_t, text, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's output and x_{t-1}, from diffusers."""
    peer = UNet2DConditionModel.from_pretrained(directory, torch_dtype=torch.float32).eval()
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    epsilon = peer(x_t, torch.tensor([NETWORK_TIME]), encoder_hidden_states=text).sample
    generator = torch.Generator().manual_seed(seed)
    return epsilon, scheduler.step(epsilon, NETWORK_TIME, x_t, generator=generator).prev_sample


@pytest.mark.slow
def test_one_denoising_step_equals_diffusers(tmp_path):
    random_checkpoint(tmp_path)
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(1, 4, 64, 64, generator=generator)
    text = torch.randn(1, 77, 768, generator=generator)
    with torch.no_grad():
        epsilon, x_prev = own_step(tmp_path, x_t, text, seed=2)
        gc.collect()
        peer_epsilon, peer_x_prev = peer_step(tmp_path, x_t, text, seed=2)
    assert peer_epsilon.std() > 1e-2
    # A step moves x_t by little, so it is the move that has to agree.
    errors = [
        float((epsilon - peer_epsilon).norm() / peer_epsilon.norm()),
        float((x_prev - peer_x_prev).norm() / (peer_x_prev - x_t).norm()),
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"relative difference {errors[0]:.1e}, of the step {errors[1]:.1e}; {peak / GIB:.1f} GiB")
    assert max(errors) <= 1e-3
    assert peak < 12 * GIB


@pytest.mark.slow
def test_text_to_image_and_bound_equal_diffusers(tmp_path):
    """The whole pipeline with guidance, and its bound; on a sixteenth of the pixels, for speed."""
    random_pipeline(tmp_path, side=16)
    prompt, negative = "a red apple", "apple"
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    model = nelbo.load(tmp_path)
    sampler = nelbo.load_sampler(tmp_path, 2)
    x = model.sample(1, sampler, prompt=prompt, negative_prompt=negative, guidance=5.0, x_T=latents)
    on_levels = model.data.to_network(model.data.to_levels(x))
    model.decoder_scale = 0.1
    with torch.no_grad():
        bound = model.elbo(on_levels, model.condition_on([prompt]), levels=2)
    parts = (bound.reconstruction, bound.entropy, bound.latent_reconstruction, bound.prior_matching)
    assert all(part.isfinite().all() for part in parts)
    assert bound.dims == 3 * 128 * 128
    del model
    gc.collect()

    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt,
        negative_prompt=negative,
        guidance_scale=5.0,
        latents=latents,
        num_inference_steps=2,
        output_type="pt",
    ).images
    error = float(((x / 2 + 0.5) - theirs).abs().max())
    with torch.no_grad():
        stddev = pipeline.vae.encode(on_levels).latent_dist.std * 0.18215
    entropy = torch.distributions.Normal(0.0, stddev).entropy().sum()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"largest difference of a pixel {error:.1e}; {peak / GIB:.1f} GiB")
    assert theirs.std() > 0.01
    assert error <= 1e-3
    torch.testing.assert_close(bound.entropy.squeeze(), entropy, rtol=1e-4, atol=1e-2)
    assert peak < 8 * GIB
