"""What a ControlNet starts as, and what it says about mistakes."""

from __future__ import annotations

import pytest
import torch

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.networks import ControlledUNet, ControlNet, TextUNetConfig, UNet

SMALL = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
}
CONTROL = {"conditioning_embedding_out_channels": (4, 8)}


def pair(**fields) -> tuple[UNet, ControlNet]:
    torch.manual_seed(0)
    up = ("UpBlock2D", "CrossAttnUpBlock2D")
    unet = UNet(TextUNetConfig(**SMALL, up_block_types=up, **fields)).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.normal_(std=0.2)
    return unet, ControlNet.from_unet(unet, **CONTROL)


def batch(control: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 5, 12, generator=generator)
    if control is None:
        control = torch.rand(2, 3, 16, 16, generator=generator)
    return x_t, torch.tensor([10, 999]), Condition(text=text, control=control)


def test_a_fresh_controlnet_leaves_the_unet_as_it_is():
    unet, controlnet = pair()
    assert torch.equal(ControlledUNet(unet, controlnet)(*batch()), unet(*batch()))


def test_it_copies_the_unet():
    unet, controlnet = pair()
    before = unet.conv_in.weight.clone()
    with torch.no_grad():
        controlnet.conv_in.weight.zero_()
    assert torch.equal(unet.conv_in.weight, before)


def test_it_learns_while_the_unet_stays():
    unet, controlnet = pair()
    unet.requires_grad_(False)
    network = ControlledUNet(unet, controlnet)
    optimizer = torch.optim.AdamW(controlnet.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = (network(*batch()) - 1).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(parameter.grad.abs().max() > 0 for parameter in controlnet.parameters())


def test_the_pair_is_one_module():
    unet, controlnet = pair(num_class_embeds=3)
    network = ControlledUNet(unet, controlnet).double()
    assert network.dtype == torch.float64
    assert network.config.num_class_embeds == 3
    found = network(*batch())
    assert found.dtype == torch.float64


def test_a_control_of_the_right_size_is_needed():
    unet, controlnet = pair()
    network = ControlledUNet(unet, controlnet)
    x_t, time, condition = batch()
    with pytest.raises(NelboError, match=r"Condition\(control="):
        network(x_t, time, Condition(text=condition.text))
    with pytest.raises(NelboError, match=r"expected \(2, 3, 16, 16\)"):
        network(*batch(torch.zeros(2, 3, 8, 8)))


def test_only_text_conditional_unets_have_one():
    unet = UNet(
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    with pytest.raises(NelboError, match="UNet2DModel"):
        ControlNet.from_unet(unet)
    with pytest.raises(NelboError, match="time_embedding_dim"):
        pair(time_embedding_dim=24)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("global_pool_conditions", True),
        ("controlnet_conditioning_channel_order", "hsv"),
        ("conditioning_embedding_out_channels", None),
        ("conditioning_embedding_out_channels", [4, 0]),
        ("conditioning_channels", 0),
        ("mid_block_type", None),
        ("class_embed_type", "simple_projection"),
        ("layers_per_block", [1, 1]),
        ("down_block_types", ["DownBlock2D", "AttnDownBlock2D"]),
        ("only_cross_attention", True),
        ("encoder_hid_dim_type", "text_proj"),
        ("attention_head_dim", 3),
        ("act_fn", "tanh"),
    ],
)
def test_unsupported_field_is_named(field, value):
    with pytest.raises(NelboError, match=rf"'{field}': found .*supported: "):
        ControlNet.from_config(SMALL | CONTROL | {field: value})


def test_label_as_time_is_activated_by_silu_only():
    with pytest.raises(NelboError, match="act_fn"):
        ControlNet(**SMALL, **CONTROL, class_embed_type="timestep", act_fn="gelu")
