"""A tiny model, images and bounds that every test of the report draws."""

import math

import torch

from nelbo.chain.bound import Bound
from nelbo.diffusion import Continuous, Diffusion, NoiseSchedule, Pixels


class TinyNetwork(torch.nn.Module):
    """Shrinks its input; a network in form, quick and different at every level."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, x_t, time, condition=None):
        return self.weight * x_t + 0.01 * time.view(-1, 1, 1, 1) / 50


def make_model(T: int = 12, levels: int | None = 17, shape=(1, 8, 8)) -> Diffusion:
    data = Continuous() if levels is None else Pixels(levels)
    return Diffusion(
        TinyNetwork(),
        NoiseSchedule.geometric(T),
        prediction="v_prediction",
        data=data,
        shape=shape,
        clip_sample=True,
    )


def make_images(n: int, levels: int = 17, shape=(1, 8, 8), seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, (n, *shape), generator=g, dtype=torch.uint8)


def make_bound(n: int = 5, T: int = 12, dims: int = 64, sign: float = -1.0) -> Bound:
    g = torch.Generator().manual_seed(n + T)
    return Bound(
        reconstruction=sign * (5 + torch.rand(n, generator=g)),
        prior_matching=torch.full((n,), 0.5),
        score_matching=3 * torch.rand(n, T - 1, generator=g),
        levels=torch.arange(2, T + 1).expand(n, T - 1),
        weights=torch.ones(n, T - 1),
        dims=dims,
        reconstruction_variance=0.1 * torch.rand(n, generator=g),
    )


def make_metrics() -> list[dict[str, float]]:
    return [
        {
            "step": step,
            "seconds": step * 0.02,
            "loss": 1 / (1 + step / 50),
            "bits_per_dim": 2 + 20 * math.exp(-step / 40),
            "learning_rate": 1e-3,
            "gradient_norm": 1.0,
        }
        for step in range(1, 120)
    ]
