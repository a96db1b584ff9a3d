"""Forward and backward passes of nelbo's text UNet against diffusers', same weights, side by side.

    python benchmarks/text_unet_speed.py [--json FILE]

On one thread by default, as in unet_speed.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _side_by_side import Timing, run, take_turns
from diffusers import UNet2DConditionModel
from torch.nn import functional as F

from nelbo.chain.conditioning import Condition
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
            timings.append(Timing.of(case.size, case.batch, what, times))
    return timings


if __name__ == "__main__":
    run(__doc__, "Text UNet", measure)
