"""Training and sampling with a ControlNet, side by side with diffusers and with the base alone.

    python benchmarks/controlnet.py [--scale 1.0] [--json FILE]

Prints ratios of medians of processor time on one thread, of calls that take turns in one process:

- a training step: nelbo's whole loop (data, draws, the bound, moving average, record) against the
  loop of diffusers' train_controlnet.py, once with latents and embedded prompts given, so that
  networks, loss, clipping and AdamW are all that it does, and once with the encoders that it calls
  at every step; both on the same weights, in float32;
- ten steps of DDIM with one ControlNet against the same without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from nelbo import Diffusion, NoiseSchedule
from nelbo.chain.conditioning import Condition
from nelbo.data import ImageData
from nelbo.data.controls import Given
from nelbo.diffusion import Continuous
from nelbo.networks import ControlNet, UNet
from nelbo.samplers import DDIM
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.controlnet.examples import Examples
from nelbo.training.kinds.controlnet.objective import ControlObjective
from nelbo.training.kinds.controlnet.task import ControlTask
from nelbo.training.kinds.latent.latents import LatentData
from nelbo.training.task import ImageSource
from nelbo.training.trainer import Trainer

BATCH, IMAGES, RATE = 16, 64, 1e-5
CHANNELS, SIDE, FACTOR, TOKENS, WIDTH = 4, 16, 4, 16, 192
FIELDS: dict[str, Any] = {
    "sample_size": SIDE,
    "block_out_channels": (128, 160),
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
    "layers_per_block": 1,
    "norm_num_groups": 16,
}
EMBEDDING = (16, 32, 96)
Step = Callable[[], object]


class Drawn(Examples):
    """Latents with embedded captions, as `LatentExamples` has them once they are encoded."""

    def __init__(self, latents: LatentData) -> None:
        self.latents = latents

    def draw(self, batch, images, flipped, dropped):
        part = batch.part
        some = self.latents.take(batch.examples[part.slice])
        noise = torch.randn(part.batch, *some.mean.shape[1:], generator=batch.generator)
        noise = noise[part.slice]
        return some.mean + some.stddev * noise, some.condition(dropped), None


def networks() -> tuple[Any, Any, UNet, ControlNet]:
    """The same random networks, as diffusers' and as nelbo's."""
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(**FIELDS)
    unet.requires_grad_(False).eval()
    control: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=EMBEDDING)
    own = UNet.from_config(json.loads(unet.to_json_string()))
    own.load_state_dict(unet.state_dict())
    own_control = ControlNet.from_config(json.loads(control.to_json_string()))
    own_control.load_state_dict(control.state_dict())
    return unet, control, own.requires_grad_(False).eval(), own_control


def nelbo_step() -> Step:
    """A step of nelbo's whole loop."""
    _, _, unet, controlnet = networks()
    images = torch.randint(0, 256, (IMAGES, 3, FACTOR * SIDE, FACTOR * SIDE)).byte()
    mean = torch.randn(IMAGES, CHANNELS, SIDE, SIDE)
    latents = LatentData(
        mean,
        0.1 * torch.ones_like(mean),
        captions=Condition(text=torch.randn(IMAGES + 1, TOKENS, WIDTH)),
        caption_index=torch.arange(1, IMAGES + 1),
    )
    data = ImageData("random", images, 256, tuple(map(str, range(IMAGES))))
    config = TrainingConfig(steps=10**6, batch_size=BATCH, objective="simple", learning_rate=RATE)
    objective = ControlObjective(controlnet, chain(unet))
    source, controls = ImageSource(data, 0), Given(images)
    task = ControlTask(objective, source, Drawn(latents), controls, config, 0.05)
    steps = Trainer(task).run()
    return lambda: next(steps)


def diffusers_step(*, encodes: bool) -> Step:
    """A step of the loop of diffusers' train_controlnet.py, on images it encodes or latents."""
    unet, controlnet, _, _ = networks()
    vae: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        norm_num_groups=16,
        latent_channels=CHANNELS,
    )
    vae.requires_grad_(False)
    scheduler: Any = DDPMScheduler(1000)
    controlnet.train()
    optimizer = torch.optim.AdamW(controlnet.parameters(), lr=RATE)
    images = torch.randn(BATCH, 3, FACTOR * SIDE, FACTOR * SIDE)
    text, control = torch.randn(BATCH, TOKENS, WIDTH), torch.rand_like(images)
    given = torch.randn(BATCH, CHANNELS, SIDE, SIDE)

    def step() -> None:
        latents = vae.encode(images).latent_dist.sample() if encodes else given
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (BATCH,))
        noisy = scheduler.add_noise(latents, noise, timesteps)
        down, middle = controlnet(
            noisy,
            timesteps,
            encoder_hidden_states=text,
            controlnet_cond=control,
            return_dict=False,
        )
        predicted = unet(
            noisy,
            timesteps,
            encoder_hidden_states=text,
            down_block_additional_residuals=list(down),
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        F.mse_loss(predicted, noise).backward()
        torch.nn.utils.clip_grad_norm_(controlnet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def chain(unet: UNet) -> Diffusion:
    """The chain of the base."""
    shape = (CHANNELS, SIDE, SIDE)
    return Diffusion(unet, NoiseSchedule.cosine(1000), data=Continuous(), shape=shape).eval()


def sampling() -> dict[str, Step]:
    """Four latents by DDIM, without a control and with one."""
    _, _, unet, controlnet = networks()
    model = chain(unet).with_controlnets(controlnet).eval()
    condition = Condition(text=torch.randn(4, TOKENS, WIDTH))
    control, sampler = torch.rand(4, 3, FACTOR * SIDE, FACTOR * SIDE), DDIM(10)
    return {
        "sampling without": lambda: model.sample(4, sampler, condition=condition),
        "sampling with one ControlNet": lambda: model.sample(
            4, sampler, condition=condition, control=control
        ),
    }


def take_turns(steps: dict[str, Step], seconds: float) -> dict[str, list[float]]:
    """Seconds of processor time of each call, in turn."""
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.process_time() + seconds
    while time.process_time() < end or min(map(len, times.values())) < 3:
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the time spent")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    peer = "diffusers' loop, latents and prompts given"
    training: dict[str, Step] = {
        peer: diffusers_step(encodes=False),
        "diffusers' loop, images encoded at every step": diffusers_step(encodes=True),
        "nelbo's whole loop": nelbo_step(),
    }
    table = Table(title="Processor time on one thread, medians of calls that take turns")
    for column in ("what", "ms", "ratio", "calls"):
        table.add_column(column, justify="left" if column == "what" else "right")
    figures = {}
    for steps in (training, sampling()):
        times = take_turns(steps, 25 * arguments.scale)
        first = statistics.median(next(iter(times.values())))
        for name, seconds in times.items():
            median = statistics.median(seconds)
            figures[name] = {"seconds": median, "ratio": median / first, "calls": len(seconds)}
            table.add_row(name, f"{1e3 * median:.0f}", f"{median / first:.3f}", str(len(seconds)))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
