"""A latent diffusion codes along x ← z_0 ← z_1 …, its autoencoder's two steps among them."""

from __future__ import annotations

import torch

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
