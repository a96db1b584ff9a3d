"""Stable Diffusion 3 medium at its true size: it fits into memory and gives the same step and term.

Its network has random weights in bfloat16, and is never built with values before it is loaded.
"""

from __future__ import annotations

import gc
import json
import resource
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import save_file

import nelbo
from tests.formats import tiny_flows
from tests.formats.tiny import randomise

GIB = 2**30
PARAMETERS = 2_028_328_000
CONFIG = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
SHAPE = (16, 8, 8)


def random_network(directory: Path) -> None:
    """The weights, slices of one random row of numbers, and the config."""
    with torch.device("meta"):
        network = diffusers.SD3Transformer2DModel(**CONFIG)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert abs(count / PARAMETERS - 1) < 0.05, count
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(2**24, generator=generator).bfloat16()
    weights = {}
    for i, (name, meta) in enumerate(network.state_dict().items()):
        part = row[7919 * i % 2**20 :][: meta.numel()]
        values = part.repeat(-(-meta.numel() // len(part)))[: meta.numel()].view(meta.shape)
        if meta.ndim > 1:
            weights[name] = values.div_(max(1, meta[0].numel()) ** 0.5)
        else:
            weights[name] = values.mul_(0.1).add_(float("norm" in name and "weight" in name))
    directory.mkdir(parents=True)
    save_file(weights, directory / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    config = {"_class_name": "SD3Transformer2DModel", **CONFIG}
    (directory / "config.json").write_text(json.dumps(config))


def random_pipeline(path: Path) -> None:
    """The true network, beside an autoencoder and two CLIPs that are small but for their widths."""
    kind = transformers.CLIPTextModelWithProjection
    parts = {}
    for name, width, heads, seed in (("", 768, 12, 2), ("_2", 1280, 20, 3)):
        tokens, model = tiny_flows.clip(
            path / "made",
            kind,
            seed,
            hidden_size=width,
            projection_dim=width,
            num_attention_heads=heads,
            num_hidden_layers=1,
        )
        parts |= {f"tokenizer{name}": tokens, f"text_encoder{name}": model}
    stages = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8, 8, 16, 16),
    }
    vae = tiny_flows.autoencoder(
        latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, **stages
    )
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=None,
        scheduler=tiny_flows.flow(shift=3.0),
        vae=randomise(vae, seed=1),
        tokenizer_3=None,
        text_encoder_3=None,
        **parts,
    )
    pipeline.save_pretrained(path)
    index = json.loads((path / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "SD3Transformer2DModel"]
    (path / "model_index.json").write_text(json.dumps(index))
    (path / "nelbo.json").write_text(json.dumps({"shape": list(SHAPE)}))
    random_network(path / "transformer")


@pytest.mark.slow
@torch.no_grad()
def test_one_step_and_one_term_equal_those_of_diffusers(tmp_path):
    random_pipeline(tmp_path)
    gc.collect()
    generator = torch.Generator().manual_seed(1)
    z, noise = torch.randn(2, 1, *SHAPE, generator=generator)
    text = torch.randn(1, 8, 4096, generator=generator)
    pooled = torch.randn(1, 2048, generator=generator)
    condition = nelbo.Condition(text=text, pooled_text=pooled)
    model = nelbo.load(tmp_path)
    prior, schedule, t = model.prior, model.prior.schedule, 400
    assert {w.dtype for w in prior.parameters()} == {torch.bfloat16}
    z_t = prior.diffuse(z, noise, t)
    term = float(prior.score_matching(z, z_t, t, condition))
    step = next(nelbo.load_sampler(tmp_path, 4).iterate(prior, noise, condition=condition)).x
    coefficients = [
        float(values[t])
        for values in (schedule.flow_times, schedule.betas, schedule.posterior_variance)
    ]
    data_weight = float(schedule.posterior_data_weight[t])
    scale = float(schedule.signal_scale[t] + schedule.noise_scale[t])
    following = nelbo.load_sampler(tmp_path, 4).path(schedule)[0][1]
    del model, prior
    gc.collect()

    peer = diffusers.SD3Transformer2DModel.from_pretrained(
        tmp_path, subfolder="transformer", torch_dtype=torch.bfloat16
    )
    given = {
        "encoder_hidden_states": text.bfloat16(),
        "pooled_projections": pooled.bfloat16(),
    }
    scheduler = tiny_flows.flow(shift=3.0)
    scheduler.set_timesteps(4)
    first = scheduler.timesteps[0]
    velocity = peer(noise.bfloat16(), timestep=first[None], **given).sample
    expected = scheduler.step(velocity.float(), first, noise).prev_sample
    moved = step / (following.signal_scale + following.noise_scale)
    w, beta, small = coefficients
    state = z_t / scale
    answer = peer(state.bfloat16(), timestep=torch.tensor([1000 * w]), **given).sample
    error = data_weight * (z - (state - w * answer.float()))
    ratio = torch.tensor(small / beta).double()
    divergence = 0.5 * (error.double().square() / beta + ratio - 1 - ratio.log())
    errors = [
        float((moved - expected).norm() / (expected - noise).norm()),
        abs(term / float(divergence.sum()) - 1),
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"relative difference {errors[0]:.1e}, of the term {errors[1]:.1e}; {peak / GIB:.1f} GiB")
    assert velocity.float().std() > 1e-2
    assert max(errors) <= 1e-2
    assert peak < 14 * GIB
