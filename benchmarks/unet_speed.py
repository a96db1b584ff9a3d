"""Training and sampling steps of nelbo's UNet against diffusers', same weights, side by side.

    python benchmarks/unet_speed.py [--json FILE]

The two networks take turns (A B A B ...) in one process, so that whatever else the machine does
slows both; the ratio of medians is the figure, absolute times are for orientation. One thread by
default: with more threads than free cores, waiting for one another drowns the difference.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DModel
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from nelbo.networks import UNet


class Case(NamedTuple):
    """One network and the batches it is timed on."""

    size: int
    fields: dict[str, Any]
    train_batch: int
    sample_batch: int
    seconds: float


class Timing(NamedTuple):
    """Median milliseconds of one step, and the ratios of the medians and of the fastest steps.

    On a busy machine the median says how lucky each network was with its neighbours; the fastest
    step is the one that met the least interference.
    """

    size: int
    batch: int
    what: str
    nelbo_ms: float
    diffusers_ms: float
    ratio: float
    fastest_ratio: float


CASES = [
    Case(
        8,
        {
            # what `nelbo train digits` builds
            "in_channels": 1,
            "out_channels": 2,
            "block_out_channels": (32, 64, 64),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "attention_head_dim": 16,
        },
        train_batch=64,
        sample_batch=64,
        seconds=10,
    ),
    Case(
        32,
        {
            "block_out_channels": (64, 128, 256),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 64,
        },
        train_batch=16,
        sample_batch=16,
        seconds=24,
    ),
]


def pair(case: Case) -> tuple[UNet, Any]:
    """The same random network twice."""
    torch.manual_seed(0)
    peer: Any = UNet2DModel(**case.fields)
    own = UNet(**case.fields)
    own.load_state_dict(peer.state_dict())
    return own, peer


def train_step(
    predict: Callable[..., torch.Tensor], network: torch.nn.Module, case: Case
) -> Callable[[], None]:
    """Forward, backward and an AdamW step."""
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    channels = case.fields.get("in_channels", 3)
    x_t = torch.randn(case.train_batch, channels, case.size, case.size)
    network_time = torch.randint(0, 1000, (case.train_batch,))
    target = torch.zeros(case.train_batch, case.fields.get("out_channels", 3), case.size, case.size)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(predict(x_t, network_time), target).backward()
        optimizer.step()

    return step


def sample_step(
    predict: Callable[..., torch.Tensor], network: torch.nn.Module, case: Case
) -> Callable[[], None]:
    """One forward pass without gradients."""
    network.eval()
    x_t = torch.randn(case.sample_batch, case.fields.get("in_channels", 3), case.size, case.size)
    network_time = torch.full((case.sample_batch,), 500)

    def step() -> None:
        with torch.no_grad():
            predict(x_t, network_time)

    return step


def take_turns(
    first: Callable[[], None], second: Callable[[], None], seconds: float
) -> list[list[float]]:
    """Milliseconds of every call of two functions that alternate."""
    for _ in range(2):
        first()
        second()
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 3:
        for elapsed, function in zip(times, (first, second), strict=True):
            start = time.perf_counter()
            function()
            elapsed.append(1e3 * (time.perf_counter() - start))
    return times


def measure(scale: float) -> list[Timing]:
    """Every case, training and sampling."""
    timings = []
    for case in CASES:
        for what, make, batch in (
            ("train", train_step, case.train_batch),
            ("sample", sample_step, case.sample_batch),
        ):
            own, peer = pair(case)
            steps = (
                make(own, own, case),
                make(lambda x, t, peer=peer: peer(x, t).sample, peer, case),
            )
            times = take_turns(*steps, case.seconds * scale)
            own_ms, peer_ms = map(statistics.median, times)
            fastest = min(times[0]) / min(times[1])
            timings.append(
                Timing(case.size, batch, what, own_ms, peer_ms, own_ms / peer_ms, fastest)
            )
    return timings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the time spent")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    timings = measure(arguments.scale)
    table = Table(title=f"UNet, float32, {arguments.threads} thread(s), median of a step")
    for column in ("size", "batch", "what", "nelbo ms", "diffusers ms", "ratio", "fastest"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for t in timings:
        table.add_row(
            f"{t.size}×{t.size}",
            str(t.batch),
            t.what,
            f"{t.nelbo_ms:.1f}",
            f"{t.diffusers_ms:.1f}",
            f"{t.ratio:.3f}",
            f"{t.fastest_ratio:.3f}",
        )
    Console().print(table)
    if arguments.json:
        rows = [timing._asdict() for timing in timings]
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
