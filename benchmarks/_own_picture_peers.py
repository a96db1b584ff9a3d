"""The training loops of two other packages, for a given time, as nelbo models of what they trained.

Each keeps its own network, loss, optimiser, average and hyper-parameters; only the loop ends with
the time. What they train is a chain that nelbo knows, so that bound and samplers are the same ones.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from _denoising_diffusion import denoising_diffusion
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from nelbo import Diffusion, NoiseSchedule
from nelbo.data import ImageData


def batches(data: ImageData, size: int, seed: int = 0) -> Iterator[Tensor]:
    """Shuffled pictures in [−1, 1], pass after pass, half of them mirrored."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < size:
            left = torch.cat([left, torch.randperm(len(data), generator=generator)])
        images = data.images[left[:size]].float() * (2 / (data.levels - 1)) - 1
        left = left[size:]
        mirrored = torch.rand(size, generator=generator) < 0.5
        yield torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


def diffusers_example(
    data: ImageData, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, Diffusion], int]:
    """examples/unconditional_image_generation/train_unconditional.py, by the command of its README.

    DDPM with linear β and ε; 128 to 512 channels, of which the small resolutions that do not exist
    here are left out; batch 16, mirrored; AdamW at 1e-4, 500 steps of warm-up, then a cosine over
    the run, whose length in steps is measured on the first ones; an average of power 3/4.

    Returns:
        The averaged model, and as many steps as it took.
    """
    side, channels = data.shape[1], data.shape[0]
    depth = min(6, int(math.log2(side)))
    widths = (128, 128, 256, 256, 512, 512)[:depth]
    # Its only attention is at the last resolution but one.
    attends = [level == depth - 2 for level in range(depth)]
    network: Any = diffusers.UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=widths,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
    )
    noises: Any = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    average = EMAModel(
        network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75
    )
    steps, begun, rates = 0, clock(), None
    for clean in batches(data, 16):
        noise = torch.randn_like(clean)
        times = torch.randint(0, 1000, (len(clean),))
        noisy = noises.add_noise(clean, noise, times)
        F.mse_loss(network(noisy, times).sample, noise).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if rates is not None:
            rates.step()
        optimizer.zero_grad()
        average.step(network.parameters())
        steps += 1
        elapsed = clock() - begun
        if steps == 3:
            total = max(4, int(steps * seconds / elapsed))
            warm_up = min(500, total // 10)  # 500 would be all that there is on a CPU
            rates = get_cosine_schedule_with_warmup(optimizer, warm_up, total)
        if elapsed > seconds:
            break
    average.copy_to(network.parameters())
    chain = NoiseSchedule.from_betas(noises.betas.double())

    def predict(x: Tensor, t: Tensor, condition: object) -> Tensor:
        return network(x, t).sample

    network.eval()
    return _by_variance(predict, chain, "epsilon", data), steps


def lucidrains(
    data: ImageData, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, Diffusion], int] | None:
    """denoising-diffusion-pytorch, by the example of its README and the defaults of its Trainer.

    Unet(64, dim_mults 1 2 4 8), v on the sigmoid chain, two batches of 32 a step, mirrored, Adam
    at 8e-5, an average of 0.995 every tenth step.

    Returns:
        The averaged model, and as many steps as it took; None where the package is missing.
    """
    package = denoising_diffusion()
    if package is None:
        return None
    network = package.Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=data.shape[0], flash_attn=False)
    diffusion = package.GaussianDiffusion(network, image_size=data.shape[1], timesteps=1000)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=8e-5, betas=(0.9, 0.99))
    average = copy.deepcopy(network)
    source = batches(data, 32)
    steps, begun = 0, clock()
    while clock() - begun < seconds:
        for _ in range(2):
            (diffusion((next(source) + 1) / 2) / 2).backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        if steps % 10 == 0:
            # Until step 100 its EMA copies.
            kept = 0.0 if steps <= 100 else 0.995
            with torch.no_grad():
                for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
                    mean.lerp_(weight, 1 - kept)
    chain = NoiseSchedule.from_betas(diffusion.betas.double())

    def predict(x: Tensor, t: Tensor, condition: object) -> Tensor:
        return average(x, t)

    average.eval()
    return _by_variance(predict, chain, "v_prediction", data), steps


def _by_variance(
    predict: object, chain: NoiseSchedule, prediction: str, data: ImageData
) -> dict[str, Diffusion]:
    """Both usual variances, of which the better one is read."""
    return {
        variance: Diffusion(
            predict,
            chain,
            prediction=prediction,
            variance=variance,
            shape=data.shape,
            clip_sample=True,
        )
        for variance in ("fixed_small", "fixed_large")
    }
