"""What the optimiser gains: the validation bound after the same steps, by AdamW and by Muon.

    python benchmarks/optimizers.py [DATA] [--size 16] [--network unet] [--widths 32 64 64]
        [--steps 300] [--batch-size 64] [--optimizers muon adamw] [--dropout 0.1] [--seeds 0]

A model of pixels is trained with the default preset, from the same weights, on the same batches and
noise. The bound of the averaged weights is of 64 validation images at 24 levels with the same noise
for all, so that differences are known far better than each figure; the time is of the processor,
for a step without the readings. A `--network` of the families (vae, hierarchical, rnn, ssm) is
trained as `fit` does without a time budget, with "adamw" for Adam, and is not averaged.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from nelbo.chain.estimate import Estimate
from nelbo.chain.evidence import joined
from nelbo.data import ImageData, load_data
from nelbo.evidence.evaluation import evaluate
from nelbo.families import RNN, SSM, VAE, HierarchicalVAE
from nelbo.families.autoregressive import AutoregressiveNetwork
from nelbo.families.optimizers import adam_of
from nelbo.families.variational import VariationalFamily
from nelbo.training.config import OPTIMIZERS
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import TrainPixels
from nelbo.training.kinds.pixel.task import pixel_task
from nelbo.training.trainer import Trainer

IMAGES, LEVELS = 64, 24
Network = AutoregressiveNetwork | VariationalFamily
FAMILIES: dict[str, Callable[[], Network]] = {
    "vae": VAE,
    "hierarchical": HierarchicalVAE,
    "rnn": RNN,
    "ssm": SSM,
}


def readings(
    trainer: Trainer, data: ImageData, at: set[int]
) -> Iterator[tuple[int, Tensor, float]]:
    """The step, the bound of each image in bits/dim, and processor seconds a step until then."""
    read, begun = 0.0, time.process_time()
    for step in trainer.run():
        if step.step in at:
            now = time.process_time()
            bounds = evaluate(
                trainer.average.model,
                data,
                levels=LEVELS,
                generator=torch.Generator().manual_seed(0),
            )
            yield step.step, joined(bounds).bits_per_dim.double(), (now - begun - read) / step.step
            read += time.process_time() - now


def family_readings(
    model: Network, train: ImageData, data: ImageData, optimizer: str, seed: int, at: set[int]
) -> Iterator[tuple[int, Tensor, float]]:
    """The same of a family that is fitted, up to the last of the steps."""
    if optimizer != "muon":
        adam = partial(adam_of, betas=(0.9, 0.99))
        model.recipe = replace(model.recipe, optimizer=adam)
    read, begun = 0.0, time.process_time()
    for step in model.fit_steps(train, seed=seed, device="cpu"):
        if step.number in at:
            now = time.process_time()
            model.eval()
            noise = torch.Generator().manual_seed(0)
            bits = joined(evaluate(model, data, generator=noise)).bits_per_dim.double()
            model.train()
            yield step.number, bits, (now - begun - read) / step.number
            read += time.process_time() - now
        if step.number >= max(at):
            return


def main() -> None:
    """Train by each optimiser, and print what was read."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", nargs="?", default="digits")
    parser.add_argument("--size", type=int)
    parser.add_argument("--network", choices=("unet", "dit", *FAMILIES), default="unet")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 64])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--dropout", type=float, default=TrainPixels("").model.dropout)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_data(arguments.data, "train", size=arguments.size)
    validation = load_data(arguments.data, "validation", size=arguments.size).subset(IMAGES, 0)
    usual, steps = TrainPixels(arguments.data), arguments.steps
    family = FAMILIES.get(arguments.network)
    network = arguments.network if family is None else "unet"
    settings = replace(
        usual.model,
        network=network,
        widths=tuple(arguments.widths),
        dropout=arguments.dropout,
    )
    for seed in arguments.seeds:
        first: dict[int, Tensor] = {}
        for optimizer in arguments.optimizers:
            config = replace(
                usual.training,
                steps=steps,
                batch_size=arguments.batch_size,
                precision="fp32",
                optimizer=optimizer,
                seed=seed,
            )
            torch.manual_seed(seed)
            at = {steps // 2, steps}
            if family is None:
                trainer = Trainer(pixel_task(build_model(settings, data), data, config))
                found = readings(trainer, validation, at)
            else:
                found = family_readings(family(), data, validation, optimizer, seed, at)
            for step, bits, seconds in found:
                mean = Estimate.of(bits, 0.0)
                line = f"{optimizer:6s} seed {seed}  step {step:5d}  {mean.mean:.3f} ± "
                line += f"{mean.standard_error:.3f} bits/dim  {1000 * seconds:.0f} ms a step"
                if step in first:
                    more = Estimate.of(bits - first[step], 0.0)
                    line += f"  paired {more.mean:+.3f} ± {more.standard_error:.3f}"
                first.setdefault(step, bits)
                print(line, flush=True)


if __name__ == "__main__":
    main()
