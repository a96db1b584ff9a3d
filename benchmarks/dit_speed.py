"""Training and sampling steps of nelbo's DiT against diffusers', same weights, side by side.

    python benchmarks/dit_speed.py [--json FILE]

One thread by default: with more threads than free cores, their synchronisation hides the
difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _side_by_side import Timing, run, take_turns
from diffusers import DiTTransformer2DModel
from torch import Tensor
from torch.nn import functional as F

from nelbo.chain.conditioning import Condition
from nelbo.networks import DiT

CLASSES = 10


class Case(NamedTuple):
    """One network and the batch it is timed on."""

    size: int
    batch: int
    fields: dict[str, Any]
    seconds: float


CASES = [
    # what `nelbo train digits --network dit --class-conditional` builds
    Case(8, 64, {"in_channels": 1, "out_channels": 2, "patch_size": 1, "num_layers": 4}, 10),
    # the latents of pictures of 256 × 256, by DiT-S
    Case(
        32,
        4,
        {
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 12,
            "num_attention_heads": 6,
            "attention_head_dim": 64,
        },
        24,
    ),
]
_USUAL: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "num_embeds_ada_norm": CLASSES,
}


def pair(case: Case) -> tuple[DiT, Any]:
    """The same random network twice."""
    torch.manual_seed(0)
    fields = _USUAL | case.fields | {"sample_size": case.size}
    peer: Any = DiTTransformer2DModel(**fields)
    own = DiT(**fields)
    own.load_state_dict(peer.state_dict())
    return own, peer


def step_of(
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    network: torch.nn.Module,
    case: Case,
    train: bool,
) -> Callable[[], None]:
    """Forward, backward and an AdamW step; or one forward pass without gradients."""
    network.train(train)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    x_t = torch.randn(case.batch, case.fields["in_channels"], case.size, case.size)
    time = torch.randint(0, 1000, (case.batch,))
    label = torch.randint(0, CLASSES, (case.batch,))
    target = torch.zeros(case.batch, case.fields["out_channels"], case.size, case.size)

    def step() -> None:
        with torch.set_grad_enabled(train):
            output = predict(x_t, time, label)
            if train:
                optimizer.zero_grad(set_to_none=True)
                F.mse_loss(output, target).backward()
                optimizer.step()

    return step


def measure(scale: float) -> list[Timing]:
    """Every case, training and sampling."""
    timings = []
    for case in CASES:
        for what in ("train", "sample"):
            own, peer = pair(case)
            steps = (
                step_of(
                    lambda x, t, y, own=own: own(x, t, Condition(label=y)),
                    own,
                    case,
                    what == "train",
                ),
                step_of(
                    lambda x, t, y, peer=peer: peer(x, t, y).sample, peer, case, what == "train"
                ),
            )
            times = take_turns(*steps, case.seconds * scale)
            timings.append(Timing.of(case.size, case.batch, what, times))
    return timings


if __name__ == "__main__":
    run(__doc__, "DiT", measure)
