"""A linear autoencoder of Gaussian latents, for which the evidence has a closed form."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from nelbo import Continuous, LatentDiffusion, NoiseSchedule
from nelbo.networks.encoding import Autoencoder
from tests.oracles.gaussian import gaussian_model

# Every pixel of x is a vector of three channels along this direction, and noise.
DIRECTION = torch.tensor([0.6, -0.3, 0.2], dtype=torch.float64)
NOISE = 0.25
SCALE = 0.5
# Standard deviation of the latents before they are scaled.
STD = 0.8


class LinearAutoencoder(Autoencoder):
    """decode(z) = w z for every pixel; the encoder is the true posterior, or a worse one.

    Args:
        shift: how far the encoder's mean is from the posterior's.
        spread: the encoder's standard deviation in units of the posterior's.
    """

    def __init__(self, shift: float = 0.0, spread: float = 1.0) -> None:
        super().__init__()
        self.config = SimpleNamespace(latent_channels=1, in_channels=3, downscale=1)
        self.shift, self.spread = shift, spread
        self.variance = 1 / (1 / STD**2 + DIRECTION.square().sum().item() / NOISE**2)

    def encode(self, x: Tensor) -> Normal:
        along = torch.einsum("c,bchw->bhw", DIRECTION, x)[:, None]
        mean = self.variance * along / NOISE**2 + self.shift
        return Normal(mean, torch.full_like(mean, self.spread * self.variance**0.5))

    def decode(self, z: Tensor) -> Tensor:
        return DIRECTION.view(3, 1, 1) * z

    def save_pretrained(self, path: object) -> None:
        raise NotImplementedError

    def divergence(self) -> float:
        """KL(q(z|x) || p(z|x)) of one latent, nats; the same for every x."""
        posterior = Normal(0.0, self.variance**0.5)
        q = Normal(self.shift, self.spread * self.variance**0.5)
        return torch.distributions.kl_divergence(q, posterior).item()


def latent_model(
    schedule: NoiseSchedule,
    autoencoder: LinearAutoencoder,
    *,
    shape=(1, 2, 2),
    skill: float = 1.0,
    data=Continuous(),  # noqa: B008
    scale: float = SCALE,
) -> LatentDiffusion:
    """The linear autoencoder with the exact, or a poor, diffusion model of its scaled latents."""
    prior = gaussian_model(scale * STD, schedule, "fixed_large", shape=shape, skill=skill)
    return LatentDiffusion(autoencoder, prior, scale=scale, data=data, decoder_scale=NOISE)


def draw_images(n: int, generator: torch.Generator, shape=(2, 2)) -> Tensor:
    z = STD * torch.randn(n, 1, *shape, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 3, *shape, generator=generator, dtype=torch.float64)
    return DIRECTION.view(3, 1, 1) * z + NOISE * noise


def evidence(x: Tensor) -> Tensor:
    """log p(x), nats, (B,): pixels are independent normal vectors of three channels."""
    covariance = STD**2 * torch.outer(DIRECTION, DIRECTION) + NOISE**2 * torch.eye(3).double()
    normal = MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
    return normal.log_prob(x.permute(0, 2, 3, 1)).flatten(1).sum(1)
