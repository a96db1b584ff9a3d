"""Speed and memory of a step beside diffusers: the same weights, taking turns in one process."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo import Condition, Diffusion, NoiseSchedule
from nelbo.data import ImageData
from nelbo.networks import AutoencoderKL, DiT, TextUNetConfig, UNet
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.pixel.task import PixelTask
from nelbo.training.trainer import Trainer
from tests.gpu.check import Check, synchronise
from tests.parity import test_autoencoder, test_dit, test_text_unet, test_unet

Step = Callable[[], object]
TOKENS = 77
# Seconds of turns, and the fewest of them.
SECONDS, TURNS = 4.0, 5
_TINY = 1, 8


class Case(NamedTuple):
    """Two networks of the same weights, how each is called, and the inputs of both."""

    own: nn.Module
    peer: nn.Module
    call_own: Callable[..., Tensor]
    call_peer: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]


def _unet(device: torch.device) -> Case:
    """The 36 million parameters of google/ddpm-cifar10-32, 128 images; small on a CPU."""
    fields: dict[str, Any] = test_unet.CONFIGS["ddpm"]
    batch, size = _TINY
    if device.type == "cuda":
        batch, size = 128, 32
        wide = {"block_out_channels": (128, 256, 256, 256), "norm_num_groups": 32}
        fields = fields | wide | {"sample_size": 32}
    peer: Any = diffusers.UNet2DModel(**fields)
    own = UNet(**fields)
    return _case(
        (own, peer),
        lambda x, t: own(x, t),
        lambda x, t: peer(x, t).sample,
        torch.randn(batch, 3, size, size),
        torch.randint(0, 1000, (batch,)),
        device=device,
    )


def _text_unet(device: torch.device) -> Case:
    """The 860 million parameters of Stable Diffusion 1.5, 4 latents of 64×64; small on a CPU."""
    fields: dict[str, Any] = test_text_unet.CONFIGS["sd1"]
    batch, size = _TINY
    if device.type == "cuda":
        batch, size = 4, 64
        wide = {"block_out_channels": (320, 640, 1280, 1280), "norm_num_groups": 32}
        fields = fields | wide | {"cross_attention_dim": 768, "sample_size": 64}
    peer: Any = diffusers.UNet2DConditionModel(**fields)
    own = UNet(TextUNetConfig(**fields))
    return _case(
        (own, peer),
        lambda x, t, text: own(x, t, Condition(text=text)),
        lambda x, t, text: peer(x, t, text).sample,
        torch.randn(batch, 4, size, size),
        torch.randint(0, 1000, (batch,)),
        torch.randn(batch, TOKENS, fields["cross_attention_dim"]),
        device=device,
    )


def _dit(device: torch.device) -> Case:
    """The 130 million parameters of DiT-B/2, 16 latents of 32×32; small on a CPU."""
    fields: dict[str, Any] = test_dit.CONFIGS["plain"]
    batch, size = _TINY
    if device.type == "cuda":
        batch, size = 16, 32
        wide = {"num_attention_heads": 12, "attention_head_dim": 64, "num_layers": 12}
        fields = (
            fields | wide | {"in_channels": 4, "sample_size": size, "num_embeds_ada_norm": 1000}
        )
    peer: Any = diffusers.DiTTransformer2DModel(**fields)
    own = DiT(**fields)
    return _case(
        (own, peer),
        lambda x, t, label: own(x, t, Condition(label=label)),
        lambda x, t, label: peer(x, timestep=t, class_labels=label).sample,
        torch.randn(batch, fields["in_channels"], size, size),
        torch.randint(0, 1000, (batch,)),
        torch.randint(0, fields["num_embeds_ada_norm"], (batch,)),
        device=device,
    )


def _autoencoder(device: torch.device) -> Case:
    """The 84 million parameters of Stable Diffusion's, one picture of 512×512; small on a CPU."""
    fields: dict[str, Any] = test_autoencoder.CONFIGS["sd"]
    size = 16
    if device.type == "cuda":
        size = 512
        fields = fields | {"block_out_channels": (128, 256, 512, 512), "norm_num_groups": 32}
    peer: Any = diffusers.AutoencoderKL(**fields)
    own = AutoencoderKL(**fields)
    return _case(
        (own, peer),
        lambda x: own(x),
        lambda x: peer(x).sample,
        torch.randn(1, 3, size, size),
        device=device,
    )


def _case(
    networks: tuple[nn.Module, nn.Module],
    call_own: Callable[..., Tensor],
    call_peer: Callable[..., Tensor],
    *inputs: Tensor,
    device: torch.device,
) -> Case:
    own, peer = networks
    own.load_state_dict(peer.state_dict())
    moved = tuple(each.to(device) for each in inputs)
    return Case(own.to(device), peer.to(device), call_own, call_peer, moved)


def _forward(network: nn.Module, call: Callable[..., Tensor], case: Case, bf16: bool) -> Step:
    network.eval()
    kind = case.inputs[0].device.type

    def step() -> None:
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=bf16):
            call(*case.inputs)

    return step


def _train(network: nn.Module, call: Callable[..., Tensor], case: Case, bf16: bool) -> Step:
    network.train()
    kind = case.inputs[0].device.type
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, torch.bfloat16, enabled=bf16):
            output = call(*case.inputs).float()
        F.mse_loss(output, torch.zeros_like(output)).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return step


def _beside(
    make: Callable[[torch.device], Case],
    step: Callable[..., Step],
    bf16: bool,
    device: torch.device,
) -> str:
    case = make(device)
    own = step(case.own, case.call_own, case, bf16)
    peer = step(case.peer, case.call_peer, case, bf16)
    return f"{_size(case)}: {compare(own, peer, device)}"


def _loop(compiled: bool, device: torch.device) -> str:
    """nelbo's whole loop in bf16 beside a loop of diffusers' UNet2DModel written by hand."""
    case = _unet(device)
    batch, _, size, _ = case.inputs[0].shape
    pixels = torch.randint(0, 256, (4 * batch, 3, size, size), dtype=torch.uint8)
    data = ImageData("noise", pixels, 256, tuple(map(str, range(len(pixels)))))
    model = Diffusion(case.own, NoiseSchedule.linear(), shape=(3, size, size))
    config = TrainingConfig(
        steps=10**9,
        batch_size=batch,
        objective="simple",
        precision="bf16",
        compile=compiled and device.type == "cuda",
        learning_rate=1e-5,
    )
    steps = Trainer(PixelTask(model, data, config), device).run()
    peer = _train(case.peer, case.call_peer, case, True)
    return f"{_size(case)}: {compare(lambda: next(steps), peer, device)}"


def _size(case: Case) -> str:
    parameters = sum(weight.numel() for weight in case.own.parameters())
    shape = "×".join(map(str, case.inputs[0].shape))
    return f"{parameters / 1e6:.1f}M parameters, inputs {shape}"


def compare(own: Step, peer: Step, device: torch.device) -> str:
    """Median milliseconds of steps that take turns, and the peak of memory of each."""
    memory = [_peak(step, device) for step in (own, peer)]
    times: tuple[list[float], list[float]] = ([], [])
    seconds = SECONDS if device.type == "cuda" else 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < (TURNS if seconds else 1):
        for step, taken in zip((own, peer), times, strict=True):
            synchronise(device)
            start = time.perf_counter()
            step()
            synchronise(device)
            taken.append(1e3 * (time.perf_counter() - start))
    mine, theirs = map(statistics.median, times)
    figures = f"nelbo {mine:.2f} ms, diffusers {theirs:.2f} ms, ratio {mine / theirs:.3f}"
    if math.isnan(memory[0]):
        return figures
    ratio = memory[0] / memory[1]
    return f"{figures}; nelbo {memory[0]:.0f} MB, diffusers {memory[1]:.0f} MB, ratio {ratio:.3f}"


def _peak(step: Step, device: torch.device) -> float:
    """Warm up; then MB that a step takes beyond what lies there before it, nan on a CPU."""
    for _ in range(3 if device.type == "cuda" else 1):
        step()
    if device.type != "cuda":
        return float("nan")
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    synchronise(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def checks() -> list[Check]:
    """Networks and the training loop; nothing here fails for being slow."""
    rows: list[tuple[str, Callable[[torch.device], Case], Callable[..., Step], bool]] = [
        ("UNet train float32", _unet, _train, False),
        ("UNet train bf16", _unet, _train, True),
        ("UNet forward bf16", _unet, _forward, True),
        ("text UNet forward bf16", _text_unet, _forward, True),
        ("text UNet train bf16", _text_unet, _train, True),
        ("DiT forward bf16", _dit, _forward, True),
        ("DiT train bf16", _dit, _train, True),
        ("autoencoder forward bf16", _autoencoder, _forward, True),
    ]
    networks = [Check(f"speed/{name}", partial(_beside, *row)) for name, *row in rows]
    loops = [
        Check(f"speed/training loop{' compiled' * compiled} bf16", partial(_loop, compiled))
        for compiled in (False, True)
    ]
    return [*networks, *loops]
