"""Small models of pixels, which code quickly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nelbo import Diffusion, NoiseSchedule, Pixels


class Shrink(nn.Module):
    """Predicts some of the state as noise, with a little of its neighbours."""

    def __init__(self, channels: int, outputs: int = 1, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mix = nn.Conv2d(channels, outputs * channels, 3, padding=1)
        with torch.no_grad():
            for weight in self.mix.parameters():
                weight.copy_(0.15 * torch.randn(weight.shape, generator=generator))

    def forward(self, x: Tensor, time: Tensor, condition=None) -> Tensor:
        seen = self.mix(x)
        if condition is not None and condition.label is not None:
            seen = seen + 0.1 * condition.label.to(x.dtype).view(-1, 1, 1, 1)
        seen[:, : x.shape[1]] += 0.8 * x
        return seen


def tiny(
    levels: int = 8,
    shape: tuple[int, int, int] = (1, 4, 4),
    T: int = 6,
    variance: str = "fixed_small",
    seed: int = 0,
    **options,
) -> Diffusion:
    network = Shrink(shape[0], 2 if variance == "learned_range" else 1, seed)
    return Diffusion(
        network,
        NoiseSchedule.cosine(T),
        variance=variance,
        data=Pixels(levels),
        shape=shape,
        clip_sample=True,
        **options,
    ).eval()


def random_images(n: int, model: Diffusion, seed: int = 0) -> Tensor:
    """Images that a sum of waves makes, so that they are alike but not smooth."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = model.shape
    levels = model.data.levels
    base = torch.rand(n, channels, 1, 1, generator=generator)
    rough = torch.rand(n, channels, height, width, generator=generator)
    return ((0.6 * base + 0.4 * rough) * levels).long().clamp(0, levels - 1).to(torch.uint8)
