"""`UNet` is the same function as diffusers' `UNet2DConditionModel`, and has the same files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from nelbo.chain.conditioning import Condition
from nelbo.networks import TextUNetConfig, UNet
from tests.parity.same_files import assert_round_trip

TOLERANCE = 1e-8
SMALL = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
FOUR_LEVELS = SMALL | {
    "block_out_channels": (8, 16, 24, 24),
    "layers_per_block": 2,
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
}

CONFIGS = {
    # Stable Diffusion 1.x: 1×1 convolutions, eight heads everywhere.
    "sd1": FOUR_LEVELS | {"attention_head_dim": 8},
    # Stable Diffusion 2.x: linear projections, heads by level, upcast attention.
    "sd2": FOUR_LEVELS
    | {
        "attention_head_dim": (1, 2, 4, 4),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    # SDXL base: deeper transformers, none at the top, pooled prompt and size.
    "sdxl": SMALL
    | {
        "block_out_channels": (8, 16, 32),
        "layers_per_block": 2,
        "attention_head_dim": (1, 2, 4),
        "transformer_layers_per_block": (1, 2, 3),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 10 + 6 * 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
    # Inpainting: latents, mask and masked latents in.
    "inpainting": SMALL | {"in_channels": 9, "downsample_padding": 0, "dropout": 0.2},
    # unCLIP: the label is a picture's embedding.
    "unclip": SMALL
    | {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 20,
        "use_linear_projection": True,
        "act_fn": "gelu",
    },
    "simple_projection": SMALL
    | {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": 7},
    "classes": SMALL
    | {
        "num_class_embeds": 5,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "mid_block_scale_factor": 2**0.5,
    },
    "label_as_time": SMALL
    | {"class_embed_type": "timestep", "act_fn": "mish", "time_embedding_dim": 24},
    "label_as_embedding": SMALL | {"class_embed_type": "identity", "center_input_sample": True},
    "scale_shift": SMALL
    | {"resnet_time_scale_shift": "scale_shift", "norm_eps": 1e-6, "out_channels": 8},
    "lists": SMALL
    | {
        "block_out_channels": (8, 16, 16),
        "layers_per_block": (1, 3, 2),
        "cross_attention_dim": (12, 12, 12),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        "act_fn": "relu",
    },
    "plain_middle": SMALL | {"mid_block_type": "UNetMidBlock2D", "sample_size": (16, 8)},
    "no_middle": SMALL | {"mid_block_type": None},
    "without_text": SMALL
    | {
        "mid_block_type": "UNetMidBlock2D",
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    },
}


def randomise(network: torch.nn.Module) -> None:
    """Every parameter random, at a scale that keeps activations near one."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)


def peer_network(name: str) -> UNet2DConditionModel:
    torch.manual_seed(0)
    peer = UNet2DConditionModel(**CONFIGS[name]).double().eval()
    randomise(peer)
    return peer


def same_network(peer: UNet2DConditionModel) -> UNet:
    config = json.loads(peer.to_json_string())
    network = UNet.from_config(config).to(peer.dtype).eval()
    network.load_state_dict(peer.state_dict())
    return network


def inputs(name: str, batch: int = 2, dtype=torch.float64) -> tuple:
    config = CONFIGS[name]
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype)

    x_t = normal(config.get("in_channels", 4), 16, 8)
    label = None
    if config.get("class_embed_type") == "identity":
        label = normal(4 * config["block_out_channels"][0])
    elif "addition_embed_type" not in config and "projection_class_embeddings_input_dim" in config:
        label = normal(config["projection_class_embeddings_input_dim"])
    elif config.get("class_embed_type") == "timestep" or "num_class_embeds" in config:
        label = torch.tensor([0, 4, 2])[:batch]
    return (
        x_t,
        torch.tensor([1, 999, 500])[:batch],
        Condition(
            label=label,
            text=None if name == "without_text" else normal(7, 12),
            pooled_text=normal(10) if "addition_embed_type" in config else None,
            size=torch.tensor([[1024, 768, 0, 16, 512, 512]]).expand(batch, -1)
            if "addition_embed_type" in config
            else None,
        ),
    )


def peer_arguments(condition: Condition) -> dict:
    added = {"text_embeds": condition.pooled_text, "time_ids": condition.size}
    return {
        "encoder_hidden_states": condition.text,
        "class_labels": condition.label,
        "added_cond_kwargs": None if condition.size is None else added,
    }


def peer_output(peer: UNet2DConditionModel, x_t, network_time, condition) -> torch.Tensor:
    return peer(x_t, network_time, **peer_arguments(condition)).sample


@pytest.mark.parametrize("name", CONFIGS)
def test_output_equals_diffusers(name):
    peer = peer_network(name)
    network = same_network(peer)
    batch = inputs(name)
    with torch.no_grad():
        expected = peer_output(peer, *batch)
        found = network(*batch)
    assert found.shape == expected.shape
    assert expected.std() > 1e-3
    assert (found - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_output_equals_diffusers_in_float32(name):
    peer = peer_network(name).float()
    network = same_network(peer)
    batch = inputs(name, dtype=torch.float32)
    with torch.no_grad():
        assert (network(*batch) - peer_output(peer, *batch)).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "unclip", "no_middle"])
def test_gradients_equal_diffusers(name):
    peer = peer_network(name)
    network = same_network(peer)
    x_t, network_time, condition = inputs(name)
    outputs = []
    leaves = []
    for predict in (lambda *batch: peer_output(peer, *batch), network):
        x, text = x_t.clone().requires_grad_(), condition.text.clone().requires_grad_()
        given = replace(condition, text=text)
        outputs.append(predict(x, network_time, given))
        outputs[-1].square().mean().backward()
        leaves.append((x.grad, text.grad))
    assert (outputs[0] - outputs[1]).abs().max() <= TOLERANCE
    for expected, found in zip(*leaves, strict=True):
        assert (found - expected).abs().max() <= TOLERANCE
    expected = {key: parameter.grad for key, parameter in peer.named_parameters()}
    for key, parameter in network.named_parameters():
        scale = max(1.0, float(expected[key].abs().max()))
        assert (parameter.grad - expected[key]).abs().max() <= TOLERANCE * scale, key


@pytest.mark.parametrize("name", CONFIGS)
def test_round_trip_through_files_leaves_everything_unchanged(name, tmp_path):
    network = assert_round_trip(peer_network(name), UNet, tmp_path)
    assert isinstance(network.config, TextUNetConfig)
    assert network.dtype == torch.float64


def test_a_fresh_text_unet_is_read_by_diffusers(tmp_path):
    config = TextUNetConfig(**CONFIGS["sdxl"])
    network = UNet(config).double().eval()
    randomise(network)
    network.save_pretrained(tmp_path)
    peer = UNet2DConditionModel.from_pretrained(tmp_path, torch_dtype=torch.float64)
    batch = inputs("sdxl")
    with torch.no_grad():
        assert (network(*batch) - peer_output(peer, *batch)).abs().max() <= TOLERANCE
