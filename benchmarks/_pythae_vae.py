"""pythae's VAE around nelbo's own networks, a step at a time, and its bound on pixels."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from pythae.models import VAE as PythaeVAE
from pythae.models import VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from nelbo.chain.data_space import Pixels
from nelbo.families.hierarchy import Hierarchy

# Draws of z behind the bound of an image.
_DRAWS = 8


class _Encoder(BaseEncoder):
    """Mean and log-variance from a network of mean and log-scale."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_scale = self.network(x).chunk(2, 1)
        return ModelOutput(embedding=mean, log_covariance=2 * log_scale)


class _Decoder(BaseDecoder):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.network(z))


def pythae_vae(hierarchy: Hierarchy, image_shape: tuple[int, ...]) -> PythaeVAE:
    """Its VAE with copies of the networks of a hierarchy, in their present state.

    Weights are laid out as torch makes them, which is how its trainer leaves them.
    """
    config = VAEConfig(image_shape, hierarchy.shape[0], reconstruction_loss="mse")
    encoder = _Encoder(copy.deepcopy(hierarchy.encoder))
    vae = PythaeVAE(config, encoder, _Decoder(copy.deepcopy(hierarchy.decoder)))
    return vae.to(memory_format=torch.contiguous_format)


def stepper(model: PythaeVAE, learning_rate: float) -> Callable[[Tensor], float]:
    """One update of its weights by Adam, as its trainer does; returns the loss."""
    adam = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def step(x: Tensor) -> float:
        adam.zero_grad()
        loss = model({"data": x}).loss
        loss.backward()
        adam.step()
        return loss.item()

    return step


@torch.no_grad()
def bits_per_dim(model: PythaeVAE, space: Pixels, x: Tensor, fitted_on: Tensor) -> Tensor:
    """The bound of each image with the scale of each pixel that suits other images best.

    It trains with a normal of scale one, which is no likelihood of pixels.
    """
    g = torch.Generator().manual_seed(0)

    def decoded(images: Tensor) -> tuple[Tensor, Tensor]:
        output = model.encoder(images)
        q = Normal(output.embedding, (0.5 * output.log_covariance).exp())
        z = q.mean + q.stddev * torch.randn(q.mean.shape, generator=g)
        return model.decoder(z).reconstruction, kl_divergence(q, Normal(0.0, 1.0)).sum(1)

    model.eval()
    scale = (decoded(fitted_on)[0] - fitted_on).square().mean(0).sqrt()
    scale = scale.clamp(min=0.25 / (space.levels - 1))
    total = torch.zeros(len(x))
    for _ in range(_DRAWS):
        mean, kl = decoded(x)
        likelihood = space.likelihood(mean, scale.expand_as(mean))
        total += (kl - likelihood.log_prob(x).flatten(1).sum(1)) / _DRAWS
    return total / (x[0].numel() * math.log(2))
