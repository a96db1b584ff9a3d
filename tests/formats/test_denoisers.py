"""A network of another class goes through pipelines once `DENOISERS` names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import nelbo
from nelbo import NelboError
from nelbo.networks.denoiser import Denoiser, DenoiserConfig
from nelbo.networks.denoisers import DENOISERS
from nelbo.training.start_from import starting_diffusion
from tests.formats import tiny


@dataclass(frozen=True)
class ToyConfig(DenoiserConfig):
    class_name: ClassVar[str] = "ToyTransformer2DModel"

    width: int = 4


class Toy(Denoiser):
    folder = "transformer"
    config_classes = (ToyConfig,)
    config: ToyConfig

    def __init__(self, config=None, **fields):
        super().__init__(config, **fields)
        config = self.config
        self.read = nn.Conv2d(config.in_channels + 1, config.width, 3, padding=1)
        self.write = nn.Conv2d(config.width, config.out_channels, 3, padding=1)

    def forward(self, x_t, network_time, condition=None):
        time = (network_time / 10).expand(len(x_t)).view(-1, 1, 1, 1).expand_as(x_t[:, :1])
        return self.write(self.read(torch.cat([x_t, time.to(x_t)], 1)).tanh())


@pytest.fixture
def toy():
    DENOISERS.append(Toy)
    torch.manual_seed(0)
    yield nelbo.Diffusion(
        Toy(sample_size=8).eval(),
        nelbo.NoiseSchedule.linear(10, 0.01, 0.4),
        data=nelbo.Pixels(256),
        shape=(3, 8, 8),
    )
    DENOISERS.remove(Toy)


def bound_and_sample(model: nelbo.Diffusion) -> tuple[torch.Tensor, torch.Tensor]:
    x = (torch.arange(3 * 64) / 127.5 - 1).reshape(1, 3, 8, 8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return model.elbo(x, generator=generator).elbo, model.sample(2, generator=generator)


def test_saved_and_loaded_it_evaluates_and_samples_alike(toy, tmp_path):
    nelbo.save(toy, tmp_path)
    found = starting_diffusion(str(tmp_path), "pixel")
    assert isinstance(found.network, Toy)
    assert not (tmp_path / "unet").exists()
    for new, old in zip(bound_and_sample(found), bound_and_sample(toy), strict=True):
        assert torch.equal(new, old)


def test_pipelines_of_other_networks_load_beside_it(toy, tmp_path):
    tiny.ddpm(tmp_path)
    with pytest.warns(UserWarning, match="pixel levels"):
        assert isinstance(nelbo.load(tmp_path).network, nelbo.UNet)


def test_mistakes(toy, tmp_path):
    nelbo.save(toy, tmp_path)
    file = tmp_path / "model_index.json"
    whole = file.read_text()
    file.write_text(whole.replace("ToyTransformer2DModel", "SD3Transformer2DModel"))
    with pytest.raises(NelboError, match=r"transformer is of class 'SD3.* or ToyTransformer2D"):
        nelbo.load(tmp_path)
    file.write_text(whole.replace('"transformer"', '"prior"'))
    with pytest.raises(NelboError, match="there is no 'unet', expected one of class UNet2DModel"):
        nelbo.load(tmp_path)
    with pytest.raises(NelboError, match="the classes of a Toy cannot be changed"):
        toy.network.with_classes([], ["a"])
    DENOISERS.remove(Toy)
    try:
        with pytest.raises(NelboError, match="class Toy, and only UNet, DiT, TextDiT can be saved"):
            nelbo.save(toy, tmp_path)
    finally:
        DENOISERS.append(Toy)
