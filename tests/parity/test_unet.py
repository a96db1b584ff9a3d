"""`UNet` is the same function as diffusers' `UNet2DModel`, and reads and writes the same files."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel

from nelbo.chain.conditioning import Condition
from nelbo.networks import UNet

TOLERANCE = 1e-10
SMALL = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}

CONFIGS = {
    "plain": SMALL | {"norm_eps": 1e-6, "in_channels": 1, "out_channels": 2},
    # The layout of google/ddpm-cifar10-32, ddpm-cat-256 and ddpm-celebahq-256.
    "ddpm": SMALL
    | {
        "block_out_channels": (8, 16, 16, 24),
        "layers_per_block": 2,
        "attention_head_dim": None,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    # The layout of CompVis/ldm-celebahq-256's unet.
    "latent": SMALL
    | {
        "block_out_channels": (16, 32, 48, 64),
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3),
        "up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
    },
    # The layout of openai/diffusers-cd_imagenet64_l2.
    "scale_shift": SMALL
    | {
        "block_out_channels": (8, 16, 24),
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 8,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "num_class_embeds": 5,
    },
    "scale_shift_bare_mid": SMALL
    | {"resnet_time_scale_shift": "scale_shift", "center_input_sample": True, "act_fn": "gelu"},
    "label_as_time": SMALL
    | {"class_embed_type": "timestep", "act_fn": "mish", "time_embedding_dim": 24},
    "label_as_embedding": SMALL | {"class_embed_type": "identity", "add_attention": False},
    "fourier": SMALL | {"time_embedding_type": "fourier", "mid_block_scale_factor": 2**0.5},
    "learned_time": SMALL
    | {
        "time_embedding_type": "learned",
        "num_train_timesteps": 1000,
        "mid_block_type": None,
        "act_fn": "relu",
    },
    "odd_heads": SMALL
    | {
        "attention_head_dim": 3,
        "down_block_types": ("UNetResAttnDownBlock2D", "UNetResDownBlock2D"),
        "up_block_types": ("UNetResUpBlock2D", "UNetResAttnUpBlock2D"),
        "dropout": 0.3,
    },
    "three_layers": SMALL
    | {
        "layers_per_block": 3,
        "block_out_channels": (12, 8),
        "mid_block_scale_factor": 3,
        "attn_norm_num_groups": 2,
        "down_block_types": ("AttnDownBlock2D", "ResnetDownsampleBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
    },
    "single_resolution": SMALL
    | {
        "block_out_channels": (8,),
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
    },
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def peer_network(name: str) -> UNet2DModel:
    """A diffusers network in float64 with every parameter random, so that nothing hides."""
    torch.manual_seed(0)
    peer = UNet2DModel(**CONFIGS[name]).double().eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.copy_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
    return peer


def inputs(name: str, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    config = CONFIGS[name]
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(
        batch, config.get("in_channels", 3), 16, 8, generator=generator, dtype=torch.float64
    )
    network_time = torch.tensor([1, 500, 999])[:batch]
    label = None
    if config.get("class_embed_type") == "identity":
        width = 4 * config["block_out_channels"][0]
        label = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    elif config.get("class_embed_type") == "timestep" or "num_class_embeds" in config:
        label = torch.tensor([0, 4, 2])[:batch]
    return x_t, network_time, label


def peer_output(peer: UNet2DModel, x_t, network_time, label) -> torch.Tensor:
    if peer.config.class_embed_type == "timestep":
        # diffusers leaves this embedding in float32 whatever the network's precision.
        peer.class_embedding.register_forward_pre_hook(lambda _, args: (args[0].to(peer.dtype),))
    return peer(x_t, network_time, class_labels=label).sample


def same_network(peer: UNet2DModel) -> UNet:
    network = UNet.from_config(peer.config).double().eval()
    network.load_state_dict(peer.state_dict())
    return network


@pytest.mark.parametrize("name", CONFIGS)
def test_output_equals_diffusers(name):
    peer = peer_network(name)
    network = same_network(peer)
    x_t, network_time, label = inputs(name)
    with torch.no_grad():
        expected = peer_output(peer, x_t, network_time, label)
        found = network(x_t, network_time, Condition(label=label))
    assert found.shape == expected.shape
    assert expected.std() > 1e-3
    assert (found - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", ["ddpm", "scale_shift"])
def test_output_equals_diffusers_while_gradients_are_recorded(name):
    peer = peer_network(name)
    network = same_network(peer)
    x_t, network_time, label = inputs(name)
    expected = peer_output(peer, x_t, network_time, label)
    found = network(x_t, network_time.double() + 0, Condition(label=label))
    assert (found - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", ["latent", "scale_shift", "three_layers"])
def test_gradients_equal_diffusers(name):
    peer = peer_network(name)
    network = same_network(peer)
    x_t, network_time, label = inputs(name)
    x_peer, x_own = x_t.clone().requires_grad_(), x_t.clone().requires_grad_()
    peer_output(peer, x_peer, network_time, label).square().mean().backward()
    network(x_own, network_time, Condition(label=label)).square().mean().backward()
    torch.testing.assert_close(x_own.grad, x_peer.grad, atol=TOLERANCE, rtol=0)
    expected = {key: parameter.grad for key, parameter in peer.named_parameters()}
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        scale = max(1.0, float(expected[key].abs().max()))
        torch.testing.assert_close(
            parameter.grad, expected[key], atol=TOLERANCE * scale, rtol=0, msg=key
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_diffusers_reads_what_nelbo_writes(name, tmp_path):
    torch.manual_seed(0)
    network = UNet(**CONFIGS[name]).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    network.save_pretrained(tmp_path)
    peer, info = UNet2DModel.from_pretrained(
        tmp_path, torch_dtype=torch.float64, output_loading_info=True
    )
    assert not any(info.values()), info
    x_t, network_time, label = inputs(name)
    with torch.no_grad():
        expected = peer_output(peer, x_t, network_time, label)
        found = network(x_t, network_time, Condition(label=label))
    assert (found - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_nelbo_reads_what_diffusers_writes_and_returns_it_unchanged(name, tmp_path):
    peer = peer_network(name)
    peer.save_pretrained(tmp_path / "peer")
    network = UNet.from_pretrained(tmp_path / "peer")
    assert network.dtype == torch.float64
    network.save_pretrained(tmp_path / "own")
    returned = UNet2DModel.from_pretrained(tmp_path / "own", torch_dtype=torch.float64)
    expected = peer.state_dict()
    assert returned.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in returned.state_dict().items())
    before, after = (
        json.loads((tmp_path / side / "config.json").read_text()) for side in ("peer", "own")
    )
    for kind in ("down_block_types", "up_block_types"):
        before[kind] = [block.removeprefix("UNetRes") for block in before[kind]]
    assert after == before


def test_an_average_that_diffusers_saves_is_read(tmp_path):
    """Its config also records the decay, the steps, and how both were chosen."""
    peer = peer_network("plain")
    average = EMAModel(
        peer.parameters(), model_cls=UNet2DModel, model_config=peer.config, use_ema_warmup=True
    )
    with torch.no_grad():
        for weight in peer.parameters():
            weight.mul_(0.5)
    average.step(peer.parameters())
    average.save_pretrained(tmp_path)
    averaged = UNet.from_pretrained(tmp_path)
    expected = UNet2DModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in averaged.state_dict().items())
    assert averaged.config == same_network(peer).config


def test_learned_variance_has_twice_the_channels():
    peer = peer_network("plain")
    assert same_network(peer).config.out_channels == 2
