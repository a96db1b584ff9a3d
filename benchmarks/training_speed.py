"""Training speed and memory, side by side with diffusers and denoising-diffusion-pytorch.

    python benchmarks/training_speed.py [--json FILE] [--scale 1.0]

Prints ratios of medians of interleaved steps in one process at 32×32, with one thread by default:

- a training step (forward, backward, clipped AdamW) of nelbo's UNet, in float32 and in bf16,
  against diffusers' UNet2DModel in a plain loop with torch's AdamW on the same weights, and against
  the UNet of denoising-diffusion-pytorch in the same loop at about the same number of parameters;
- the whole loop of nelbo (data, draws, the bound, moving average, record) against its bare step;
- the share of the machine's own rate of matrix products that the step achieves;
- the memory that a step takes beyond the weights, an image at a time;
- two processes against one at the same global batch.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from diffusers import UNet2DModel
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nelbo.data import ImageData
from nelbo.diffusion import Diffusion, NoiseSchedule
from nelbo.networks import UNet
from nelbo.training.config import TrainingConfig
from nelbo.training.trainer import Trainer

FIELDS: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (64, 128, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 64,
}
BATCH = 16
RATE = 1e-5
Step = Callable[[], object]


def networks() -> tuple[UNet, Any]:
    """The same random network as nelbo's and as diffusers'."""
    torch.manual_seed(0)
    peer: Any = UNet2DModel(**FIELDS)
    own = UNet(**FIELDS)
    own.load_state_dict(peer.state_dict())
    return own, peer


def images() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (256, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return ImageData("noise", pixels, 256, tuple(str(i) for i in range(256)))


def plain_step(predict: Callable[..., torch.Tensor], network: torch.nn.Module) -> Step:
    """A training step as one writes it by hand."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    x = torch.randn(BATCH, 3, 32, 32)
    network_time = torch.randint(0, 1000, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        F.mse_loss(predict(x, network_time), x).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return step


def trainer(network: UNet, precision: str) -> Trainer:
    model = Diffusion(network, NoiseSchedule.linear(), shape=(3, 32, 32))
    config = TrainingConfig(
        steps=10**9,
        batch_size=BATCH,
        objective="simple",
        precision=precision,
        learning_rate=RATE,
        warmup_steps=0,
    )
    return Trainer(model, images(), config)


def loop_step(precision: str) -> Step:
    """A step of nelbo's whole loop."""
    steps = trainer(networks()[0], precision).run()
    return lambda: next(steps)


def bare_step(precision: str) -> Step:
    """The same network, precision and optimiser with nothing around them."""
    t = trainer(networks()[0], precision)
    network: Any = t._computed.network
    x = torch.randn(BATCH, 3, 32, 32)
    network_time = torch.randint(0, 1000, (BATCH,))

    def step() -> None:
        t.optimizer.zero_grad()
        F.mse_loss(network(x, network_time), x).backward()
        torch.nn.utils.clip_grad_norm_(t.model.parameters(), 1.0)
        t.optimizer.step()

    return step


def lucidrains_step() -> tuple[Step, int] | str:
    """A step of denoising-diffusion-pytorch's UNet and loss, or why there is none.

    It imports torchvision and pytorch-fid for folders of images, grids and scores, none of which a
    step uses; where they cannot be imported, mock modules stand in for them.
    """
    for name in ("torchvision", "pytorch_fid"):
        try:
            importlib.import_module(name)
        except Exception:
            for part in ("", ".transforms", ".utils", ".fid_score", ".inception"):
                sys.modules[name + part] = MagicMock()
    try:
        package: Any = importlib.import_module("denoising_diffusion_pytorch")
    except Exception as error:
        return f"denoising-diffusion-pytorch cannot be imported: {error}"
    torch.manual_seed(0)
    wanted = sum(p.numel() for p in networks()[0].parameters())
    sizes = {}
    for dim in range(32, 129, 8):
        unet = package.Unet(dim=dim, dim_mults=(1, 2, 4), flash_attn=False)
        sizes[dim] = sum(p.numel() for p in unet.parameters())
    dim = min(sizes, key=lambda d: abs(sizes[d] - wanted))
    unet = package.Unet(dim=dim, dim_mults=(1, 2, 4), flash_attn=False)
    diffusion = package.GaussianDiffusion(unet, image_size=32, timesteps=1000)
    optimizer = torch.optim.Adam(unet.parameters(), lr=RATE)
    x = torch.rand(BATCH, 3, 32, 32)

    def step() -> None:
        optimizer.zero_grad()
        diffusion(x).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()

    return step, sizes[dim]


def take_turns(steps: dict[str, Step], seconds: float) -> dict[str, float]:
    """The median time of each, run in turn."""
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def matmul_rate(dtype: torch.dtype) -> float:
    """Multiplications and additions a second of a large matrix product."""
    n = 1024
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times)


def flops() -> int:
    """Multiplications and additions of one training step."""
    network, _ = networks()
    x = torch.randn(BATCH, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        F.mse_loss(network(x, torch.zeros(BATCH, dtype=torch.int64)), x).backward()
    return counter.get_total_flops()


def peak_memory(kind: str) -> None:
    """In a process of its own: print parameters and the peak of its memory before and after."""
    own, peer = networks()
    count = sum(p.numel() for p in own.parameters())
    step = {
        "nelbo fp32": lambda: plain_step(own, own),
        "nelbo bf16": lambda: bare_step("bf16"),
        "diffusers": lambda: plain_step(lambda x, t: peer(x, t).sample, peer),
    }[kind]()
    before = high_water()
    for _ in range(2):
        step()
    print(json.dumps({"parameters": count, "bytes": high_water() - before}))


def high_water() -> int:
    """The most memory that this process has had, bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the parent's as well
        line = next(r for r in status.read_text().splitlines() if r.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_memory(kind: str) -> dict[str, float]:
    result = subprocess.run(
        [sys.executable, __file__, "--memory", kind], capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout)


def measure_processes(seconds: float) -> float:
    """Images a second of two processes as a ratio to one, at the same global batch."""
    rates = []
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as directory:
            run = Path(directory) / "run"
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            command = [
                *([sys.executable] if count == 1 else [sys.executable, *launcher]),
                *("-m", "nelbo", "train", "digits", "--out", str(run), "--batch-size", "128"),
                *("--time-budget", f"{seconds}s", "--threads", "1", "--precision", "fp32"),
                *("--evaluate-images", "1", "--evaluate-levels", "1"),
            ]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, check=True, capture_output=True, env=environment)
            rows = [json.loads(r) for r in (run / "metrics.jsonl").read_text().splitlines()]
            rates.append(rows[-1]["step"] / rows[-1]["seconds"])
    return rates[1] / rates[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the time spent")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (default 1)")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        peak_memory(arguments.memory)
        return
    own, peer = networks()
    steps: dict[str, Step] = {
        "diffusers, fp32": plain_step(lambda x, t: peer(x, t).sample, peer),
        "nelbo, bare step, fp32": bare_step("fp32"),
        "nelbo, whole loop, fp32": loop_step("fp32"),
        "nelbo, bare step, bf16": bare_step("bf16"),
        "nelbo, whole loop, bf16": loop_step("bf16"),
    }
    other = lucidrains_step()
    if isinstance(other, str):
        print(other)
    else:
        steps[f"denoising-diffusion-pytorch, fp32, {other[1] / 1e6:.1f}M"] = other[0]
    times = take_turns(steps, 90 * arguments.scale)
    first = times["diffusers, fp32"]
    parameters = sum(p.numel() for p in own.parameters())
    print(f"{BATCH} images of 32×32, {parameters / 1e6:.1f}M parameters, medians")
    for name, seconds in times.items():
        print(f"  {name:45s} {1e3 * seconds:9.1f} ms   {seconds / first:.3f} of diffusers")
    figures: dict[str, Any] = {"seconds": times}
    work = flops()
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        bare, loop = times[f"nelbo, bare step, {name}"], times[f"nelbo, whole loop, {name}"]
        share = work / bare / matmul_rate(dtype)
        figures[name] = {"loop": loop / bare, "share": share}
        print(f"  {name}: the loop takes {loop / bare:.3f} of its bare step,")
        print(f"        which reaches {share:.2f} of the rate of matrix products of that precision")
    print("memory of a training step beyond the weights and data")
    for kind in ("nelbo fp32", "nelbo bf16", "diffusers"):
        found = measure_memory(kind)
        # Gradients and two moments: three times the weights.
        image = (found["bytes"] - 12 * found["parameters"]) / BATCH
        each = found["bytes"] / found["parameters"]
        figures[kind] = {"bytes_per_parameter": each, "bytes_per_image": image}
        print(
            f"  {kind:12s} {found['bytes'] / 1e6:7.0f} MB: {each:.1f} bytes a parameter, or 12 and "
            f"{image / 1e6:.1f} MB an image"
        )
    ratio = measure_processes(15 * arguments.scale)
    figures["two processes"] = ratio
    print(f"two processes against one at a global batch of 128 digits: {ratio:.2f} of the steps")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
