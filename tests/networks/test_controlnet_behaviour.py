"""What a ControlNet starts as, how several act, and what is reported of mistakes."""

from __future__ import annotations

import pytest
import torch

from nelbo import Continuous, Diffusion, NoiseSchedule
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.networks import ControlledUNet, ControlNet, Residuals, TextUNetConfig, UNet
from nelbo.networks.control import Strength

SMALL = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
}
CONTROL = {"conditioning_embedding_out_channels": (4, 8)}
DEEPER = {"conditioning_embedding_out_channels": (4, 8, 8)}
UP = ("UpBlock2D", "CrossAttnUpBlock2D")


def pair(**fields) -> tuple[UNet, ControlNet]:
    torch.manual_seed(0)
    unet = UNet(TextUNetConfig(**SMALL, up_block_types=UP, **fields)).eval()
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
        controlnet(x_t, time, Condition(text=condition.text))
    with pytest.raises(NelboError, match=r"expected \(2, 3, 16, 16\)"):
        network(*batch(torch.zeros(2, 3, 8, 8)))


def trained(controlnet: ControlNet, seed: int = 1) -> ControlNet:
    """With every parameter random, so that it counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in controlnet.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return controlnet.eval()


@torch.no_grad()
def test_without_a_control_it_is_the_unet():
    unet, controlnet = pair()
    network = ControlledUNet(unet, trained(controlnet))
    x_t, time, condition = batch()
    alone = Condition(text=condition.text)
    assert torch.equal(network(x_t, time, alone), unet(x_t, time, alone))
    assert not torch.equal(network(x_t, time, condition), unet(x_t, time, alone))


@torch.no_grad()
def test_several_add_up_each_at_its_times():
    unet, first = pair()
    second = ControlNet.from_unet(unet, **CONTROL, conditioning_channels=1)
    first, second = trained(first), trained(second, 2)
    x_t, time, condition = batch()
    one = torch.rand(2, 1, 16, 16)
    alone = Condition(text=condition.text, control=one)
    both = Condition(text=condition.text, control=torch.cat([condition.control, one], 1))
    strengths = [Strength(0.5), Strength(2.0, times=(500.0, 1000.0))]
    found = ControlledUNet(unet, [first, second], strengths=strengths)(x_t, time, both)
    a, b = first(x_t, time, condition), second(x_t, time, alone)
    acts = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)  # the times are 10 and 999
    skips = tuple(0.5 * p + acts * q for p, q in zip(a.skips, b.skips, strict=True))
    summed = Residuals(skips, 0.5 * a.middle + acts * b.middle)
    assert torch.allclose(found, unet(x_t, time, alone, residuals=summed), atol=1e-6)
    network = ControlledUNet(unet, [first, second])
    message = r"shape \(2, 3, 16, 16\), expected 4 channels: those of 2 ControlNets, 3 \+ 1"
    with pytest.raises(NelboError, match=message):
        network(x_t, time, condition)


def test_what_does_not_act_is_not_computed(monkeypatch):
    unet, controlnet = pair()
    network = ControlledUNet(unet, trained(controlnet), 0.0)
    monkeypatch.setattr(ControlNet, "forward", None)
    with torch.no_grad():
        assert torch.equal(network(*batch()), unet(*batch()))
        outside = network.acting([Strength(1.0, times=(20.0, 900.0))])
        assert torch.equal(outside(*batch()), unet(*batch()))


def test_a_controlnet_of_another_unet_is_refused():
    unet, _ = pair()
    other = UNet(TextUNetConfig(**SMALL | {"block_out_channels": (8, 24)}, up_block_types=UP))
    with pytest.raises(NelboError, match=r"block_out_channels \(8, 24\) and the UNet \(8, 16\)"):
        ControlledUNet(unet, ControlNet.from_unet(other, **CONTROL))
    nets = [ControlNet.from_unet(unet, **CONTROL), ControlNet.from_unet(unet, **DEEPER)]
    with pytest.raises(NelboError, match="controls of 2, 4 times"):
        ControlledUNet(unet, nets)
    with pytest.raises(NelboError, match="1 ControlNets were given 2 strengths"):
        ControlledUNet(unet, nets[0], [1.0, 2.0])
    with pytest.raises(NelboError, match="controlnets is empty"):
        ControlledUNet(unet, [])
    with pytest.raises(NelboError, match=r"(?s)controlnets\[0\] is UNet.*, expected a ControlNet"):
        ControlledUNet(unet, unet)
    for scale in (float("nan"), "strong", torch.ones(2)):
        with pytest.raises(NelboError, match=r"scale .*must be a"):
            ControlledUNet(unet, nets[0], scale)


@pytest.mark.parametrize("fields", [{}, {"num_class_embeds": 3, "center_input_sample": True}])
def test_a_unet_without_text_has_one(fields, tmp_path):
    torch.manual_seed(0)
    unet = UNet(
        in_channels=2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **fields,
    ).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.normal_(std=0.2)
    controlnet = ControlNet.from_unet(unet, conditioning_embedding_out_channels=(4,))
    label = torch.tensor([1, 2]) if fields else None
    condition = Condition(label=label, control=torch.rand(2, 3, 8, 8))
    x_t, time = torch.randn(2, 2, 8, 8), torch.tensor([10, 999])
    network = ControlledUNet(unet, controlnet)
    with torch.no_grad():
        assert torch.equal(network(x_t, time, condition), unet(x_t, time, condition))
        trained(controlnet).save_pretrained(tmp_path)
        again = ControlledUNet(unet, ControlNet.from_pretrained(tmp_path))
        found = network(x_t, time, condition)
        assert torch.equal(again(x_t, time, condition), found)
        assert not torch.equal(unet(x_t, time, condition), found)


def test_its_features_are_those_of_the_encoder_that_it_copies():
    """The copy before its convolutions: each skip connection and the middle of the UNet itself."""
    unet, _ = pair()
    controlnet = ControlNet.from_unet(unet, **CONTROL)
    with torch.no_grad():
        for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
            torch.nn.init.dirac_(layer.weight)
    x_t, time, condition = batch()
    with torch.no_grad():
        embedding, context = unet.embed(time, condition), unet.context(condition)
        skips, middle = unet.descend(unet.conv_in(x_t), embedding, context)
        found = controlnet(x_t, time, condition)
    pairs = zip((*skips, middle), (*found.skips, found.middle), strict=True)
    assert all(torch.allclose(mine, theirs, atol=1e-6) for mine, theirs in pairs)


def test_a_unet_that_a_controlnet_has_no_field_for():
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


def test_a_model_of_pixels_is_described_with_its_controlnets():
    unet, controlnet = pair()
    chain = NoiseSchedule.linear(10)
    alone = Diffusion(unet, chain, data=Continuous(), shape=(4, 8, 8))
    assert "ControlNet" not in alone.description() + alone.facts()["parameters"]
    model = Diffusion(ControlledUNet(unet, controlnet), chain, data=Continuous(), shape=(4, 8, 8))
    assert model.description().startswith("A diffusion model with a ControlNet of 8×8 images")
    count, own = (sum(each.numel() for each in net.parameters()) for net in (unet, controlnet))
    assert model.facts()["parameters"] == f"{count + own:,}, {own:,} of them ControlNet"
