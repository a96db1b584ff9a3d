"""A latent diffusion codes along x ← z_0 ← z_1 …, its autoencoder's two steps among them."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from nelbo import Continuous, Diffusion, LatentDiffusion, NoiseSchedule, coding
from nelbo.networks import AutoencoderKL
from tests.coding.models import Shrink
from tests.formats import tiny
from tests.training.test_latents import text_model


def model() -> LatentDiffusion:
    torch.manual_seed(0)
    fields = {name: value for name, value in tiny.LAYERS.items() if name != "layers_per_block"}
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **fields,
    )
    channels = autoencoder.config.latent_channels
    prior = Diffusion(
        Shrink(channels), NoiseSchedule.cosine(5), data=Continuous(), shape=(channels, 4, 4)
    )
    return LatentDiffusion(autoencoder, prior, scale=0.5, decoder_scale=0.2).eval()


def test_pixels_come_back():
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    latent = model()
    archive = coding.compress(latent, images, steps=3)
    assert len(coding.contents(archive)["plan"]["steps"]) == 5
    assert torch.equal(coding.decompress(latent, archive), images)


@pytest.mark.parametrize("stddev", [1e-3, 1e3])
def test_latents_lie_on_the_finer_of_two_grids(stddev, monkeypatch):
    """As narrow as q(z_0|x) or as p(z_0|z_1), whichever is: both are coded under."""
    latent = model()
    q = Normal(torch.zeros(3, 4, 4, 4), torch.full((3, 4, 4, 4), stddev))
    monkeypatch.setattr(type(latent), "encode", lambda self, x: q)
    found = latent.scales(torch.zeros(3, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    again = torch.Generator().manual_seed(0)
    z_0 = stddev * torch.randn(3, 4, 4, 4, generator=again)
    of_prior = latent.prior.scales(z_0, generator=again)
    assert found[0] == pytest.approx(latent.decoder_scale)
    assert found[1] == pytest.approx(min(stddev, float(of_prior[0])))
    torch.testing.assert_close(found[2:], of_prior[1:])


def test_a_prefix_is_a_picture():
    latent = model()
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    content = coding.compress_progressive(latent, image, bits=40)
    assert coding.decompress_progressive(latent, content).shape == image.shape


def test_a_model_of_text_finishes_without_a_prompt_as_it_began():
    latent = text_model().eval()
    image = torch.randint(0, 256, latent.shape, dtype=torch.uint8)
    content = coding.compress_progressive(latent, image, bits=40, steps=3)
    unconditional = latent.condition_for(1)
    expected = coding.decompress_progressive(latent, content, condition=unconditional)
    assert torch.equal(coding.decompress_progressive(latent, content), expected)
