"""Latent models with the sizes that training starts from."""

from __future__ import annotations

import pytest
import torch

from nelbo import NelboError
from nelbo.networks import TextUNetConfig, UNetConfig
from nelbo.samplers import DDIM
from nelbo.training.kinds.autoencoder.build import build_autoencoder
from nelbo.training.kinds.latent.build import build_latent_model
from nelbo.training.kinds.latent.latents import encode_data, unit_scale
from nelbo.training.kinds.latent.options import LatentSettings
from tests.training.test_latents import pictures


def test_the_default_for_captioned_images_fits_in_25_megabytes_of_half_precision():
    data, captions = pictures()
    large = data.images.repeat(1, 1, 2, 2)
    data = type(data)("made", large, 256, data.names, captions=tuple(captions))
    autoencoder = build_autoencoder(data)
    model = build_latent_model(autoencoder, data)
    parameters = sum(p.numel() for p in model.parameters())
    vocabulary = 2048 - len(model.text.tokenizer)
    assert 2 * (parameters + 192 * vocabulary) < 25e6
    assert model.prior.shape == (8, 8, 8)
    assert model.shape == (3, 32, 32)
    latents = encode_data(model, data)
    latents = latents.scaled(unit_scale(latents))
    draws = latents.mean + latents.stddev * torch.randn(100, *latents.mean.shape)
    assert draws.std() == pytest.approx(1, rel=0.02)
    assert isinstance(model.prior.network.config, TextUNetConfig)


def test_without_captions_the_prior_is_unconditional():
    data, _ = pictures()
    autoencoder = build_autoencoder(data, latent_channels=2, widths=(8, 16))
    model = build_latent_model(autoencoder, data, LatentSettings(widths=(16, 32), levels=20))
    assert isinstance(model.prior.network.config, UNetConfig)
    assert model.text is None
    assert model.eval().sample(2, DDIM(2)).shape == (2, 3, 16, 16)


def test_mistakes_are_explained():
    data, _ = pictures()
    with pytest.raises(NelboError, match=r"16×16, which 6 resolutions .* divisible by 32"):
        build_autoencoder(data, widths=(8,) * 6)
    autoencoder = build_autoencoder(data, widths=(8, 16))
    with pytest.raises(NelboError, match="latents are 8×8, which 5 resolutions"):
        build_latent_model(autoencoder, data, LatentSettings(widths=(16,) * 5))
    with pytest.raises(NelboError, match="has no captions, which --condition text needs"):
        build_latent_model(autoencoder, data, LatentSettings(condition="text"))
