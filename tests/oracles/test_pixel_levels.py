"""Where a chain of flow matching or EDM begins, by pixels whose entropy and network are known.

Each pixel is one of L levels, all as likely: log₂ L bits that no bound goes below. Its exact
network is a softmax over the levels.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import nelbo
from nelbo import Continuous, Diffusion, Pixels
from nelbo.training.kinds.pixel.build import build_schedule
from nelbo.training.kinds.pixel.options import ModelConfig

SHAPE, T = (1, 4, 4), 60
FINEST = {"flow_matching": "velocity", "variance_exploding": "denoiser"}


class Network:
    """E[x_0|x] at x_0 + σ ε and the velocity that stands for it, `off` pixel levels from exact."""

    def __init__(self, levels: int, off: float) -> None:
        self.grid = torch.linspace(-1, 1, levels, dtype=torch.float64)
        self.shift = off * 2 / (levels - 1)

    def denoiser(self, x: Tensor, sigma: Tensor, condition: None = None) -> Tensor:
        squares = (x.double().unsqueeze(-1) - self.grid).square()
        weights = (-squares / (2 * sigma.double().view(-1, 1, 1, 1, 1).square())).softmax(-1)
        return (weights * self.grid).sum(-1) + self.shift

    def velocity(self, x: Tensor, s: Tensor, condition: None = None) -> Tensor:
        s = s.double().clamp(max=1 - 1e-9)
        wide = s.view(-1, 1, 1, 1)
        return (x - self.denoiser(x / (1 - wide), s / (1 - s))) / wide


def lost(model: Diffusion) -> float:
    """Bits a pixel that the bound is above the entropy."""
    levels = model.data.shown_levels
    k = torch.randint(0, levels, (24, *SHAPE), generator=torch.Generator().manual_seed(0))
    x_0 = model.data.to_network(k).double()
    bound = model.elbo(x_0, generator=torch.Generator().manual_seed(1)).mean()
    return bound.bits_per_dim.mean - math.log2(levels)


@pytest.mark.parametrize("off", [0.0, 0.05], ids=["exact", "off by a twentieth of a level"])
@pytest.mark.parametrize("levels", [2, 17])
@pytest.mark.filterwarnings("ignore:the network does not denoise")
def test_the_default_end_of_own_networks_loses_little(levels, off):
    network, data = Network(levels, off), Pixels(levels)
    options = {"shape": SHAPE, "T": T, "data": data}
    for build in (nelbo.from_denoiser, nelbo.from_velocity):
        function = getattr(network, build.__name__.removeprefix("from_"))
        own, of_256 = build(function, **options), build(function, **options, sigma_min=0.002)
        assert -0.05 < lost(own) < lost(of_256) - 0.1


def test_the_default_end_is_that_of_edm_for_256_levels_and_densities():
    for data in (Pixels(256), Continuous()):
        model = nelbo.from_denoiser(Network(2, 0.0).denoiser, shape=SHAPE, data=data)
        assert float(model.schedule.sigmas[1]) == pytest.approx(0.002, rel=1e-9)


@pytest.mark.parametrize("name", FINEST)
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_chain_that_is_trained_on_pixels_begins_with_them(name, levels):
    """At the noise where the default chain begins, whatever the schedule."""
    config = ModelConfig(schedule=name, levels=T)
    schedule = build_schedule(config, levels)
    default = build_schedule(ModelConfig(levels=T), levels)
    assert float(schedule.noise_scale[1]) == pytest.approx(float(default.noise_scale[1]), rel=1e-9)
    if levels > 32:  # whose exact network is slow
        return
    network = Network(levels, 0.05)
    model = Diffusion(
        getattr(network, FINEST[name]),
        schedule,
        prediction=FINEST[name],
        variance="fixed_large",
        data=Pixels(levels),
        shape=SHAPE,
    )
    assert -0.05 < lost(model) < 0.25
