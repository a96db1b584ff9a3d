"""The bound on digits after two minutes of training: nelbo's defaults against its peers' own.

    python benchmarks/digits_bound.py [--seconds 120] [--levels 20] [--json FILE]

Each trains for as many steps as fit into the same processor time of one thread, on the same 1,437
images of 8×8 with 17 pixel levels, and is evaluated by the same code: the bound of the 360 test
images, with the same noise. The peers, with the defaults of their own training code:

- diffusers, as in its example of unconditional training: 1,000 linear levels, ε, AdamW at 1e-4 with
  500 steps of warm-up and a cosine, batches of 16, an average of up to 0.9999. Of the six
  resolutions of its network 8×8 can have the first three, of which the middle one has attention.
- denoising-diffusion-pytorch, as in its README and Trainer: Unet(dim=64), 1,000 sigmoid levels, v,
  Adam at 1e-4, batches of 16, an average of 0.995. Its mirror images are left out.

A peer is given the best of four: its last weights or their average, with either fixed variance.
Neither was made for the bound: the figure measures nelbo's choices, not which library is better.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _denoising_diffusion import denoising_diffusion
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo import Diffusion, NoiseSchedule, Pixels
from nelbo.chain.evidence import joined
from nelbo.data import ImageData, load_data
from nelbo.evidence.evaluation import evaluate
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.task import pixel_task
from nelbo.training.rehearsal import choose_precision
from nelbo.training.trainer import Trainer

BATCH = 16
_REHEARSED = 6


class Training(NamedTuple):
    """One way to train.

    Attributes:
        step: takes a step.
        models: the trained models, by their description in the table.
        parameters: how many are trained.
    """

    step: Callable[[], object]
    models: Callable[[], dict[str, Diffusion]]
    parameters: int


def nelbo_training(data: ImageData, steps: int) -> Training:
    """`nelbo train digits`."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(), data)
    trainer = Trainer(pixel_task(model, data, TrainingConfig(steps=steps)))
    precision = choose_precision(trainer)
    run = trainer.run()
    return Training(
        lambda: next(run),
        lambda: {f"average, {precision}": trainer.average.model.eval()},
        _size(model),
    )


def diffusers_training(data: ImageData, steps: int) -> Training:
    """diffusers' example of unconditional training."""
    torch.manual_seed(0)
    network: Any = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(128, 128, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    scheduler: Any = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    rate = get_cosine_schedule_with_warmup(optimizer, 500, steps)
    average: Any = EMAModel(
        network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75
    )
    batches = _batches(data)

    def step() -> None:
        x_0 = next(batches)
        noise, times = torch.randn_like(x_0), torch.randint(0, 1000, (len(x_0),))
        predicted = network(scheduler.add_noise(x_0, noise, times), times).sample
        F.mse_loss(predicted, noise).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        average.step(network.parameters())

    def models() -> dict[str, Diffusion]:
        averaged: Any = UNet2DModel.from_config(network.config)
        average.copy_to(averaged.parameters())
        return _models({"last": network, "average": averaged}, scheduler.betas, "epsilon", data)

    return Training(step, models, _size(network))


def denoising_diffusion_training(data: ImageData, steps: int) -> Training:
    """denoising-diffusion-pytorch's Trainer; its rate does not depend on the number of steps."""
    package = denoising_diffusion()
    from ema_pytorch import EMA

    torch.manual_seed(0)
    network = package.Unet(dim=64, channels=1, flash_attn=False)
    diffusion = package.GaussianDiffusion(network, image_size=8)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    average = EMA(diffusion, beta=0.995, update_every=10)
    batches = _batches(data)

    def step() -> None:
        diffusion((next(batches) + 1) / 2).backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()

    def models() -> dict[str, Diffusion]:
        networks = {"last": network, "average": average.ema_model.model}
        return _models(networks, diffusion.betas, "v_prediction", data)

    return Training(step, models, _size(network))


class Called(nn.Module):
    """A peer's network, called as nelbo calls one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, time: Tensor, condition: None = None) -> Tensor:
        """The prediction."""
        output = self.network(x_t, time)
        return output if isinstance(output, Tensor) else output.sample


def _models(
    networks: dict[str, nn.Module], betas: Tensor, prediction: str, data: ImageData
) -> dict[str, Diffusion]:
    """Each of the networks with either fixed variance."""
    return {
        f"{weights}, {variance}": Diffusion(
            Called(network),
            NoiseSchedule.from_betas(betas),
            prediction=prediction,
            variance=variance,
            data=Pixels(data.levels),
            shape=data.shape,
            clip_sample=True,
        ).eval()
        for weights, network in networks.items()
        for variance in ("fixed_small", "fixed_large")
    }


def _batches(data: ImageData) -> Iterator[Tensor]:
    """Shuffled images in [−1, 1], again and again."""
    x_0 = Pixels(data.levels).to_network(data.images)
    while True:
        for index in torch.randperm(len(x_0)).split(BATCH):
            if len(index) == BATCH:
                yield x_0[index]


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def pace(training: Training) -> float:
    """Processor seconds a step."""
    training.step()
    start = time.process_time()
    for _ in range(_REHEARSED):
        training.step()
    return (time.process_time() - start) / _REHEARSED


def bits(model: Diffusion, data: ImageData, levels: int) -> tuple[float, float]:
    """The bound of the images, bits/dim, and its standard error."""
    generator = torch.Generator().manual_seed(0)
    bound = joined(evaluate(model, data, levels=levels, generator=generator))
    mean = bound.mean().bits_per_dim
    return mean.mean, mean.standard_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="of processor time each")
    parser.add_argument("--levels", type=int, default=20, help="levels evaluated an image")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ways = {"nelbo": nelbo_training, "diffusers": diffusers_training}
    if denoising_diffusion() is not None:
        ways["denoising-diffusion-pytorch"] = denoising_diffusion_training
    train, test = load_data("digits", "train"), load_data("digits", "test")
    table = Table(title=f"Digits after {arguments.seconds:g} s of training, test images")
    for column in ("trained by", "parameters", "steps", "seconds", "best of", "bits/dim"):
        table.add_column(column, justify="left" if column in ("trained by", "best of") else "right")
    figures = {}
    for name, way in ways.items():
        steps = max(1, int(arguments.seconds / pace(way(train, 10**6))))
        training = way(train, steps)
        start = time.process_time()
        for _ in range(steps):
            training.step()
        seconds = time.process_time() - start
        found = {what: bits(m, test, arguments.levels) for what, m in training.models().items()}
        best = min(found, key=lambda what: found[what][0])
        mean, error = found[best]
        figures[name] = {"steps": steps, "seconds": seconds, "bits_per_dim": found}
        size = f"{training.parameters / 1e6:.2f}M"
        bound = f"{mean:.3f} ± {error:.3f}"
        table.add_row(name, size, str(steps), f"{seconds:.0f}", best, bound)
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
