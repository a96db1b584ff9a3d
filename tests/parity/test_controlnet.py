"""`ControlNet` and the UNet it controls are the same functions as diffusers' pair."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from nelbo.chain.conditioning import Condition
from nelbo.networks import ControlledUNet, ControlNet, UNet
from tests.parity.same_files import assert_round_trip

TOLERANCE = 1e-8
SMALL = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
}
UP = {"CrossAttnDownBlock2D": "CrossAttnUpBlock2D", "DownBlock2D": "UpBlock2D"}
CONTROL = {"conditioning_embedding_out_channels": (4, 6, 8)}

# What UNet and ControlNet share, and what only the ControlNet has.
CONFIGS = {
    "sd1": (
        SMALL
        | {
            "block_out_channels": (8, 16, 24, 24),
            "layers_per_block": 2,
            "attention_head_dim": 8,
            "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        },
        {"conditioning_embedding_out_channels": (4, 6, 8, 8)},
    ),
    "sd2": (
        SMALL
        | {
            "attention_head_dim": (2, 4),
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        CONTROL | {"controlnet_conditioning_channel_order": "bgr"},
    ),
    "sdxl": (
        SMALL
        | {
            "block_out_channels": (8, 16, 32),
            "attention_head_dim": (1, 2, 4),
            "transformer_layers_per_block": (1, 2, 3),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 10 + 6 * 8,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        },
        CONTROL,
    ),
    "classes": (
        SMALL | {"num_class_embeds": 5, "mid_block_type": "UNetMidBlock2D", "act_fn": "gelu"},
        {"conditioning_embedding_out_channels": (4,), "conditioning_channels": 1},
    ),
}


def randomise(network: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)


def peers(name: str, dtype=torch.float64) -> tuple[UNet2DConditionModel, ControlNetModel]:
    """A pair of diffusers networks with every parameter random, so that nothing hides."""
    shared, own = CONFIGS[name]
    torch.manual_seed(0)
    up = tuple(UP[kind] for kind in reversed(shared["down_block_types"]))
    pair = UNet2DConditionModel(**shared, up_block_types=up), ControlNetModel(**shared, **own)
    for network in pair:
        network.to(dtype).eval()
        randomise(network)
    return pair


def same(peer: torch.nn.Module, cls):
    network = cls.from_config(json.loads(peer.to_json_string())).to(peer.dtype).eval()
    network.load_state_dict(peer.state_dict())
    return network


def inputs(name: str, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    own = CONFIGS[name][1]
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)

    factor = 2 ** (len(own["conditioning_embedding_out_channels"]) - 1)
    condition = Condition(
        text=normal(7, 12),
        label=torch.tensor([3, 0]) if name == "classes" else None,
        control=normal(own.get("conditioning_channels", 3), 16 * factor, 8 * factor),
        pooled_text=normal(10) if name == "sdxl" else None,
        size=torch.tensor([[512, 256, 0, 0, 512, 256]] * 2) if name == "sdxl" else None,
    )
    return normal(4, 16, 8), torch.tensor([1, 999]), condition


def peer_output(unet, controlnet, x_t, network_time, condition, scale=1.0):
    added = {"text_embeds": condition.pooled_text, "time_ids": condition.size}
    given = {
        "encoder_hidden_states": condition.text,
        "class_labels": condition.label,
        "added_cond_kwargs": None if condition.size is None else added,
    }
    skips, middle = controlnet(
        x_t,
        network_time,
        controlnet_cond=condition.control,
        conditioning_scale=scale,
        return_dict=False,
        **given,
    )
    output = unet(
        x_t,
        network_time,
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
        **given,
    ).sample
    return skips, middle, output


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_residuals_and_controlled_output_equal_diffusers(name, scale):
    peer_unet, peer_controlnet = peers(name)
    unet, controlnet = same(peer_unet, UNet), same(peer_controlnet, ControlNet)
    batch = inputs(name)
    with torch.no_grad():
        skips, middle, expected = peer_output(peer_unet, peer_controlnet, *batch, scale)
        residuals = controlnet(*batch)
        found = ControlledUNet(unet, controlnet, scale)(*batch)
        assert (expected - unet(*batch)).abs().max() > 1e-2
    assert len(residuals.skips) == len(skips)
    pairs = zip((*residuals.skips, residuals.middle), (*skips, middle), strict=True)
    for own, peer in pairs:
        assert peer.std() > 1e-3
        assert (scale * own - peer).abs().max() <= TOLERANCE
    assert (found - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_float32(name):
    pair = peers(name, torch.float32)
    network = ControlledUNet(same(pair[0], UNet), same(pair[1], ControlNet))
    batch = inputs(name, torch.float32)
    with torch.no_grad():
        assert (network(*batch) - peer_output(*pair, *batch)[-1]).abs().max() <= 1e-4


def test_gradients_of_the_controlnet_equal_diffusers():
    peer_unet, peer_controlnet = peers("sd2")
    unet, controlnet = same(peer_unet, UNet), same(peer_controlnet, ControlNet)
    batch = inputs("sd2")
    peer_output(peer_unet, peer_controlnet, *batch)[-1].square().mean().backward()
    ControlledUNet(unet, controlnet)(*batch).square().mean().backward()
    expected = {key: parameter.grad for key, parameter in peer_controlnet.named_parameters()}
    for key, parameter in controlnet.named_parameters():
        scale = max(1.0, float(expected[key].abs().max()))
        assert (parameter.grad - expected[key]).abs().max() <= TOLERANCE * scale, key


@pytest.mark.parametrize("name", CONFIGS)
def test_round_trip_through_files_leaves_everything_unchanged(name, tmp_path):
    _, peer = peers(name)
    assert_round_trip(peer, ControlNet, tmp_path)


@pytest.mark.parametrize("name", CONFIGS)
def test_from_unet_equals_diffusers(name):
    # In float32, which is what diffusers copies into.
    peer_unet, _ = peers(name, torch.float32)
    own_fields = CONFIGS[name][1]
    expected = ControlNetModel.from_unet(peer_unet, **own_fields)
    found = ControlNet.from_unet(same(peer_unet, UNet), **own_fields)
    config = json.loads(expected.to_json_string())
    assert ControlNet.read_config(config) == found.config
    weights = found.state_dict()
    assert weights.keys() == expected.state_dict().keys()
    for key, value in expected.state_dict().items():
        # The control's first convolutions are random in both.
        if not key.startswith(("controlnet_cond_embedding.conv_in", "controlnet_cond_embedding.b")):
            assert torch.equal(weights[key], value), key
