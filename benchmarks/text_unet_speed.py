"""Forward and backward passes of nelbo's text UNet against diffusers', same weights, side by side.

    python benchmarks/text_unet_speed.py [--json FILE]

As in unet_speed.py the two networks take turns in one process, on one thread by default, and the
ratio of the medians is the figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from unet_speed import Timing, take_turns

from nelbo.conditioning import Condition
from nelbo.networks import TextUNetConfig, UNet

TOKENS = 77
Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Case(NamedTuple):
    """One network and the batch it is timed on."""

    size: int
    fields: dict[str, Any]
    batch: int
    seconds: float


COMMON = {"layers_per_block": 1, "cross_attention_dim": 256, "attention_head_dim": 8}
CASES = [
    Case(
        8,
        COMMON
        | {
            "block_out_channels": (64, 128),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        batch=16,
        seconds=10,
    ),
    Case(
        32,
        COMMON
        | {
            "block_out_channels": (64, 128, 256),
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        },
        batch=4,
        seconds=40,
    ),
]


def pair(case: Case) -> tuple[UNet, Any]:
    """The same random network twice."""
    torch.manual_seed(0)
    peer: Any = UNet2DConditionModel(**case.fields)
    own = UNet(TextUNetConfig(**case.fields))
    own.load_state_dict(peer.state_dict())
    return own.eval(), peer.eval()


def predictors(own: UNet, peer: Any) -> tuple[Predict, Predict]:
    """Both networks as functions of latents, level and prompt."""

    def predict(x_t: torch.Tensor, time: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return own(x_t, time, Condition(text=text))

    def peer_predict(x_t: torch.Tensor, time: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return peer(x_t, time, encoder_hidden_states=text).sample

    return predict, peer_predict


def inputs(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x_t = torch.randn(case.batch, 4, case.size, case.size)
    text = torch.randn(case.batch, TOKENS, case.fields["cross_attention_dim"])
    return x_t, torch.full((case.batch,), 500), text


def forward(predict: Predict, network: torch.nn.Module, case: Case) -> Callable[[], None]:
    """One forward pass without gradients."""
    batch = inputs(case)

    def step() -> None:
        with torch.no_grad():
            predict(*batch)

    return step


def forward_backward(predict: Predict, network: torch.nn.Module, case: Case) -> Callable[[], None]:
    """A loss and its gradient."""
    batch = inputs(case)
    noise = torch.randn_like(batch[0])

    def step() -> None:
        network.zero_grad(set_to_none=True)
        F.mse_loss(predict(*batch), noise).backward()

    return step


def measure(scale: float) -> list[Timing]:
    """Every case, forward and forward with backward."""
    timings = []
    for case in CASES:
        for what, make in (("forward", forward), ("forward+backward", forward_backward)):
            networks = pair(case)
            functions = predictors(*networks)
            steps = [make(f, n, case) for f, n in zip(functions, networks, strict=True)]
            times = take_turns(steps[0], steps[1], case.seconds * scale)
            own_ms, peer_ms = map(statistics.median, times)
            fastest = min(times[0]) / min(times[1])
            timings.append(
                Timing(case.size, case.batch, what, own_ms, peer_ms, own_ms / peer_ms, fastest)
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
    table = Table(title=f"Text UNet, float32, {arguments.threads} thread(s), median of a pass")
    for column in ("size", "batch", "what", "nelbo ms", "diffusers ms", "ratio", "fastest"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for t in timings:
        figures = (f"{t.nelbo_ms:.1f}", f"{t.diffusers_ms:.1f}", f"{t.ratio:.3f}")
        table.add_row(
            f"{t.size}×{t.size}", str(t.batch), t.what, *figures, f"{t.fastest_ratio:.3f}"
        )
    Console().print(table)
    if arguments.json:
        rows = [timing._asdict() for timing in timings]
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
