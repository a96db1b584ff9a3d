"""Stable Diffusion 1.5 at its true size: it fits into memory and takes the same step."""

from __future__ import annotations

import gc
import json
import resource
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file

from nelbo.conditioning import Condition
from nelbo.diffusion import Continuous, Diffusion, NoiseSchedule
from nelbo.networks import TextUNetConfig, UNet
from nelbo.networks.weights import WEIGHTS_FILE

PARAMETERS = 859_520_964
GIB = 2**30
NETWORK_TIME = 500


def random_checkpoint(directory: Path) -> None:
    """Weights in float16 as large as those of a trained network, without ever building it."""
    config = TextUNetConfig(sample_size=64, cross_attention_dim=768)
    with torch.device("meta"):
        shapes = UNet(config).state_dict()
    assert sum(weight.numel() for weight in shapes.values()) == PARAMETERS
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, meta in shapes.items():
        weight = torch.randn(meta.shape, generator=generator)
        if weight.ndim > 1:
            weight /= meta[0].numel() ** 0.5
        else:
            weight = 0.1 * weight + name.endswith("weight")
        weights[name] = weight.half()
    save_file(weights, directory / WEIGHTS_FILE, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config.to_dict()))


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
