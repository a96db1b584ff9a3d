"""Training speed, side by side with diffusers and denoising-diffusion-pytorch.

    python benchmarks/training_speed.py [--json FILE] [--scale 1.0] [--threads 1] [--compile]

Prints ratios of medians of steps that take turns in one process, 16 images of 32×32 each:

- a training step (forward, backward, clipped AdamW) of nelbo's UNet, in float32 and in bf16,
  against diffusers' UNet2DModel in a plain loop with torch's AdamW on the same weights, and against
  denoising-diffusion-pytorch at about the same number of parameters, where that is installed;
- the whole loop of nelbo (data, draws, the bound, moving average, record) against its bare step;
- the share of the machine's own rate of matrix products that the step achieves, the better of the
  rates of two kernels: a product of matrices, and the same product as a convolution;
- with --compile, the whole loop under torch.compile, which takes minutes to begin with.

With one thread, processor time is measured, which the load of other processes does not change.
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
from _training_steps import (
    Step,
    bare_step,
    denoising_diffusion_step,
    diffusers_step,
    networks,
    parameters,
    whole_step,
)
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

BATCH = 16
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
DIFFUSERS = "diffusers, float32"
PRODUCTS = ("product", "convolution")


def take_turns(
    steps: dict[str, Step], clock: Callable[[], float], seconds: float
) -> dict[str, float]:
    """The median time of each, run in turn."""
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = clock() + seconds
    while clock() < end or len(times[DIFFUSERS]) < 5:
        for name, step in steps.items():
            start = clock()
            step()
            times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def products(dtype: torch.dtype) -> dict[str, Step]:
    """A large matrix product, 2·1024³ operations, by each of its kernels."""
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    pixels = a.T.reshape(1, 1024, 32, 32).contiguous()
    weights = b.T.reshape(1024, 1024, 1, 1).contiguous()
    return {"product": lambda: a @ b, "convolution": lambda: F.conv2d(pixels, weights)}


def operations() -> int:
    """Multiplications and additions of one training step."""
    network, _ = networks()
    x = torch.randn(BATCH, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        F.mse_loss(network(x, torch.zeros(BATCH, dtype=torch.int64)), x).backward()
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the time spent")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    steps: dict[str, Step] = {DIFFUSERS: diffusers_step(BATCH)}
    other = denoising_diffusion_step(BATCH)
    if other is not None:
        step, count = other
        steps[f"denoising-diffusion-pytorch, float32, {count / 1e6:.1f}M"] = step
    for name, dtype in PRECISIONS.items():
        steps[f"nelbo, bare step, {name}"] = bare_step(BATCH, name)
        steps[f"nelbo, whole loop, {name}"] = whole_step(BATCH, name)
        if arguments.compile:
            compiled = whole_step(BATCH, name, compiled=True)
            steps[f"nelbo, whole loop, compiled, {name}"] = compiled
        steps |= {f"{kind}, {name}": step for kind, step in products(dtype).items()}
    times = take_turns(steps, clock, 90 * arguments.scale)
    work = operations()
    figures: dict[str, Any] = {"seconds": times}
    table = Table(
        title=f"Training step, {BATCH} images of 32×32, {parameters() / 1e6:.1f}M parameters, "
        f"{arguments.threads} thread(s), medians"
    )
    for column in ("what", "ms", "of diffusers", "of the bare step", "of the product's rate"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, seconds in times.items():
        kind, _, precision = name.rpartition(", ")
        if kind in PRODUCTS:
            continue
        cells = ["", ""]
        if kind.startswith("nelbo"):
            product = min(times[f"{name}, {precision}"] for name in PRODUCTS)
            share = work / seconds * product / (2 * 1024**3)
            loop = seconds / times[f"nelbo, bare step, {precision}"]
            figures[name] = {"of_bare_step": loop, "of_product_rate": share}
            cells = [f"{loop:.3f}", f"{share:.2f}"]
        table.add_row(name, f"{1e3 * seconds:.0f}", f"{seconds / times[DIFFUSERS]:.3f}", *cells)
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
