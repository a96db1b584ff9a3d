"""Training and sampling steps of nelbo's UNet against diffusers', same weights, side by side.

    python benchmarks/unet_speed.py [--json FILE]

One thread by default: with more threads than free cores, their synchronisation hides the
difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _side_by_side import Timing, run, take_turns
from diffusers import UNet2DModel
from torch.nn import functional as F

from nelbo.networks import UNet


class Case(NamedTuple):
    """One network and the batches it is timed on."""

    size: int
    fields: dict[str, Any]
    train_batch: int
    sample_batch: int
    seconds: float


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
            timings.append(Timing.of(case.size, batch, what, times))
    return timings


if __name__ == "__main__":
    run(__doc__, "UNet", measure)
