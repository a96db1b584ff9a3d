"""A training step on 32×32 images, as nelbo and its peers take it.

The networks of nelbo and diffusers are the same, with the same weights; that of
denoising-diffusion-pytorch has about as many parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from _denoising_diffusion import denoising_diffusion
from diffusers import UNet2DModel
from torch.nn import functional as F

from nelbo.data import ImageData
from nelbo.diffusion import Diffusion, NoiseSchedule
from nelbo.networks import UNet
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.pixel.task import PixelTask
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
RATE = 1e-5
Step = Callable[[], object]


def networks() -> tuple[UNet, Any]:
    """The same random network as nelbo's and as diffusers'."""
    torch.manual_seed(0)
    peer: Any = UNet2DModel(**FIELDS)
    own = UNet(**FIELDS)
    own.load_state_dict(peer.state_dict())
    return own, peer


def parameters() -> int:
    """How many the network has."""
    return sum(p.numel() for p in networks()[0].parameters())


def diffusers_step(batch: int) -> Step:
    """diffusers' UNet2DModel and torch's AdamW in a loop as one writes it by hand."""
    _, network = networks()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    return _by_hand(lambda x, time: network(x, time).sample, network, optimizer, batch)


def bare_step(batch: int, precision: str) -> Step:
    """nelbo's network in its precision, with its optimiser, in the same loop."""
    trainer = _trainer(batch, precision)
    network: Any = trainer.variant(precision).model.network
    return _by_hand(network, trainer.model, trainer.optimizer, batch)


def whole_step(batch: int, precision: str, *, compiled: bool = False) -> Step:
    """A step of nelbo's whole loop."""
    steps = _trainer(batch, precision, compiled=compiled).run()
    return lambda: next(steps)


def denoising_diffusion_step(batch: int) -> tuple[Step, int] | None:
    """The UNet and loss of denoising-diffusion-pytorch, with how many parameters; None if absent.

    Its own Adam and clipping of gradients are those of its Trainer.
    """
    package = denoising_diffusion()
    if package is None:
        return None
    torch.manual_seed(0)
    wanted = parameters()
    sizes = {}
    for dim in range(32, 129, 8):
        with torch.device("meta"):
            unet = package.Unet(dim=dim, dim_mults=(1, 2, 4), flash_attn=False)
        sizes[dim] = sum(p.numel() for p in unet.parameters())
    dim = min(sizes, key=lambda d: abs(sizes[d] - wanted))
    unet = package.Unet(dim=dim, dim_mults=(1, 2, 4), flash_attn=False)
    diffusion = package.GaussianDiffusion(unet, image_size=32, timesteps=1000)
    optimizer = torch.optim.Adam(unet.parameters(), lr=RATE, betas=(0.9, 0.99))
    x = torch.rand(batch, 3, 32, 32)

    def step() -> None:
        optimizer.zero_grad()
        diffusion(x).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()

    return step, sizes[dim]


def _by_hand(
    predict: Callable[..., torch.Tensor],
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: int,
) -> Step:
    x = torch.randn(batch, 3, 32, 32)
    time = torch.randint(0, 1000, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        F.mse_loss(predict(x, time), x).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return step


def _trainer(batch: int, precision: str, *, compiled: bool = False) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (256, 3, 32, 32), generator=generator, dtype=torch.uint8)
    images = ImageData("noise", pixels, 256, tuple(str(i) for i in range(256)))
    config = TrainingConfig(
        steps=10**9,
        batch_size=batch,
        objective="simple",
        precision=precision,
        compile=compiled,
        learning_rate=RATE,
        warmup_steps=0,
    )
    model = Diffusion(networks()[0], NoiseSchedule.linear(), shape=(3, 32, 32))
    return Trainer(PixelTask(model, images, config))
