"""`AutoencoderKL` is the same function as diffusers' class of that name, with the same files."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderKL as Peer
from torch.distributions import Normal, kl_divergence

from nelbo.networks import AutoencoderKL
from tests.parity.same_files import assert_round_trip

TOLERANCE = 1e-8
CONFIGS = {
    # Stable Diffusion: four resolutions, two layers each, one attention layer in each middle.
    "sd": {
        "block_out_channels": (8, 16, 24, 24),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "sample_size": 512,
    },
    # SDXL's fields, with what later autoencoders leave out.
    "sd3": {
        "block_out_channels": (8, 12),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 16,
        "norm_num_groups": 4,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "force_upcast": False,
    },
    "standardised": {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 2,
        "latents_mean": [-1.6, 2.2, 0.2, -0.1],
        "latents_std": [8.4, 5.9, 5.3, 4.1],
        "mid_block_add_attention": False,
        "act_fn": "gelu",
    },
    "attention": {
        "in_channels": 1,
        "out_channels": 2,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        "norm_num_groups": 4,
        "layers_per_block": 2,
        "sample_size": (32, 16),
    },
    "single_resolution": {"block_out_channels": (8,), "norm_num_groups": 4},
}


def peer_network(name: str) -> Peer:
    """A diffusers network in float64 with every parameter random, so that nothing hides."""
    torch.manual_seed(0)
    peer = Peer(**CONFIGS[name]).double().eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.copy_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
    return peer


def same_network(peer: Peer) -> AutoencoderKL:
    network = AutoencoderKL.from_config(json.loads(peer.to_json_string())).to(peer.dtype).eval()
    network.load_state_dict(peer.state_dict())
    return network


def image(name: str, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (2, CONFIGS[name].get("in_channels", 3), 32, 16)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", CONFIGS)
def test_encode_and_decode_equal_diffusers(name):
    peer = peer_network(name)
    network = same_network(peer)
    x = image(name)
    with torch.no_grad():
        expected, found = peer.encode(x).latent_dist, network.encode(x)
        assert isinstance(found, Normal)
        assert (found.mean - expected.mean).abs().max() <= TOLERANCE
        assert (found.stddev - expected.std).abs().max() <= TOLERANCE
        prior = Normal(torch.zeros_like(found.mean), 1.0)
        divergence = kl_divergence(found, prior).sum((1, 2, 3))
        assert torch.allclose(divergence, expected.kl(), rtol=1e-8)
        decoded = network.decode(found.mean)
        assert decoded.std() > 1e-3
        assert (decoded - peer.decode(expected.mean).sample).abs().max() <= TOLERANCE
        assert torch.equal(network(x), decoded)


@pytest.mark.parametrize("name", ["sd", "standardised"])
def test_float32(name):
    peer = peer_network(name).float()
    network = same_network(peer)
    x = image(name, torch.float32)
    with torch.no_grad():
        assert (network.encode(x).mean - peer.encode(x).latent_dist.mean).abs().max() <= 1e-4
        assert (network(x) - peer(x).sample).abs().max() <= 1e-4


def test_the_variance_is_clamped():
    peer = peer_network("sd")
    network = same_network(peer)
    x = image("sd")
    for bias in (-100.0, 100.0):
        with torch.no_grad():
            for quant_conv in (peer.quant_conv, network.quant_conv):
                quant_conv.bias[4:] = bias
            found = network.encode(x).stddev
            assert torch.equal(found, peer.encode(x).latent_dist.std)
            assert torch.allclose(found.log() * 2, found.new_tensor(-30.0 if bias < 0 else 20.0))


@pytest.mark.parametrize("name", ["sd", "attention"])
def test_gradients_equal_diffusers(name):
    peer = peer_network(name)
    network = same_network(peer)
    x = image(name)
    peer(x).sample.square().mean().backward()
    network(x).square().mean().backward()
    expected = {key: parameter.grad for key, parameter in peer.named_parameters()}
    for key, parameter in network.named_parameters():
        scale = max(1.0, float(expected[key].abs().max()))
        assert (parameter.grad - expected[key]).abs().max() <= TOLERANCE * scale, key


@pytest.mark.parametrize("name", CONFIGS)
def test_round_trip_through_files_leaves_everything_unchanged(name, tmp_path):
    assert_round_trip(peer_network(name), AutoencoderKL, tmp_path)
