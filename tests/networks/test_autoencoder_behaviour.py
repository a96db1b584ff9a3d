"""Mistakes in an autoencoder's config or input are explained."""

from __future__ import annotations

import pytest
import torch

from nelbo.base.errors import NelboError
from nelbo.networks import AutoencoderKL

SMALL = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


def test_shapes():
    autoencoder = AutoencoderKL(**SMALL)
    posterior = autoencoder.encode(torch.zeros(2, 3, 8, 4))
    assert posterior.mean.shape == posterior.stddev.shape == (2, 4, 4, 2)
    assert autoencoder.decode(posterior.rsample()).shape == (2, 3, 8, 4)
    assert autoencoder.config.downscale == 2


@pytest.mark.usefixtures("without_shape_checks")
def test_wrong_shapes():
    autoencoder = AutoencoderKL(**SMALL)
    with pytest.raises(NelboError, match="x has shape"):
        autoencoder.encode(torch.zeros(1, 1, 8, 8))
    with pytest.raises(NelboError, match="divisible by 2"):
        autoencoder.encode(torch.zeros(1, 3, 8, 7))
    with pytest.raises(NelboError, match="z has shape"):
        autoencoder.decode(torch.zeros(4, 8, 8))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("down_block_types", ["DownBlock2D", "DownEncoderBlock2D"]),
        ("up_block_types", ["UpDecoderBlock2D"]),
        ("block_out_channels", []),
        ("block_out_channels", [8, 18]),
        ("norm_num_groups", 3),
        ("latent_channels", 0),
        ("act_fn", "tanh"),
        ("scaling_factor", 0),
        ("scaling_factor", None),
        ("shift_factor", "one"),
        ("latents_mean", [0.0]),
        ("latents_std", [1.0, 1.0, 1.0, None]),
        ("use_quant_conv", 1),
        ("sample_size", "large"),
        ("temporal_compression_ratio", 4),
    ],
)
def test_unsupported_field_is_named(field, value):
    name = "norm_num_groups" if (field, value) == ("block_out_channels", [8, 18]) else field
    with pytest.raises(NelboError, match=rf"'{name}': found .*supported: "):
        AutoencoderKL.from_config(SMALL | {field: value})


def test_other_class():
    with pytest.raises(NelboError, match="'_class_name': found 'VQModel'"):
        AutoencoderKL.from_config(SMALL | {"_class_name": "VQModel"})


def test_every_weight_learns():
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(**SMALL)
    x = torch.randn(2, 3, 8, 8)
    posterior = autoencoder.encode(x)
    autoencoder.decode(posterior.rsample()).sub(x).square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in autoencoder.parameters())
