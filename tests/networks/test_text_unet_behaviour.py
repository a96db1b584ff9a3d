"""What a text-conditional UNet does with its conditions, and with mistakes in its config."""

from __future__ import annotations

import pytest
import torch

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.networks import Residuals, TextUNetConfig, UNet, UNetConfig
from nelbo.networks.guidance import GuidedNetwork

SMALL = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
SDXL = SMALL | {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 10 + 6 * 8,
}


def network(fields: dict = SMALL) -> UNet:
    """A small network none of whose weights is zero."""
    torch.manual_seed(0)
    made = UNet(TextUNetConfig(**fields)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.2)
    return made


def batch(size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 4, 8, 8, generator=generator), torch.tensor([10, 999])[:size]


def sdxl_condition(size: int = 2) -> Condition:
    return Condition(
        text=torch.randn(size, 5, 12),
        pooled_text=torch.randn(size, 10),
        size=torch.tensor([[64, 64, 0, 0, 64, 64]]).repeat(size, 1),
    )


def test_the_prompt_matters():
    unet = network()
    text = torch.randn(2, 5, 12)
    first = unet(*batch(), Condition(text=text))
    second = unet(*batch(), Condition(text=torch.cat([text[:1], text[1:] + 1])))
    assert torch.allclose(first[0], second[0])
    assert not torch.allclose(first[1], second[1], atol=1e-3)


@pytest.mark.parametrize("condition", [None, Condition(), Condition(control=torch.zeros(2, 1))])
def test_a_prompt_is_needed(condition):
    with pytest.raises(NelboError, match=r"Condition\(text=.*12"):
        network()(*batch(), condition)


def test_prompt_of_the_wrong_width():
    with pytest.raises(NelboError, match="cross_attention_dim"):
        network()(*batch(), Condition(text=torch.zeros(2, 5, 13)))


def test_prompt_for_a_network_without_text():
    unet = UNet(
        block_out_channels=(8,),
        norm_num_groups=4,
        in_channels=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    with pytest.raises(NelboError, match="without attention to a prompt"):
        unet(*batch(), Condition(text=torch.zeros(2, 5, 12)))


def test_sdxl_needs_pooled_text_and_size():
    unet = network(SDXL)
    whole = sdxl_condition()
    assert unet(*batch(), whole).isfinite().all()
    for partial in (
        Condition(text=whole.text, size=whole.size),
        Condition(text=whole.text, pooled_text=whole.pooled_text),
    ):
        with pytest.raises(NelboError, match=r"pooled_text=\.\.\., size="):
            unet(*batch(), partial)
    with pytest.raises(NelboError, match="projection_class_embeddings_input_dim=58"):
        unet(
            *batch(),
            Condition(text=whole.text, pooled_text=whole.pooled_text, size=torch.ones(2, 5)),
        )


def test_conditions_are_sliced_joined_and_repeated():
    condition = sdxl_condition(3)
    twice = condition.repeat(2)
    assert twice.batch_size == 6
    assert twice.size.shape == (6, 6)
    assert torch.equal(twice[slice(3, 6)].pooled_text, condition.pooled_text)
    joined = condition.cat(condition[slice(0, 1)])
    assert joined.pooled_text.shape == (4, 10)
    with pytest.raises(NelboError, match="cannot join"):
        condition.cat(Condition(text=condition.text))


def test_guidance_keeps_the_size():
    unet = network(SDXL)
    condition = sdxl_condition()
    empty = Condition(text=torch.zeros(1, 5, 12), pooled_text=torch.zeros(1, 10))
    guided = GuidedNetwork(unet, 2.0, 4, empty)
    with torch.no_grad():
        found = guided(*batch(), condition)
        unconditional = unet(
            *batch(),
            Condition(
                text=torch.zeros(2, 5, 12), pooled_text=torch.zeros(2, 10), size=condition.size
            ),
        )
        expected = unconditional + 2 * (unet(*batch(), condition) - unconditional)
    assert torch.allclose(found, expected, atol=1e-4)


def test_residuals_of_another_unet():
    unet = network()
    residuals = Residuals((torch.zeros(2, 8, 8, 8),), torch.zeros(2, 16, 4, 4))
    with pytest.raises(NelboError, match="residuals do not fit"):
        unet(*batch(), Condition(text=torch.zeros(2, 5, 12)), residuals=residuals)


def test_fresh_network_predicts_zero_and_every_weight_learns():
    torch.manual_seed(0)
    unet = UNet(TextUNetConfig(**SMALL))
    condition = Condition(text=torch.randn(2, 5, 12))
    assert unet(*batch(), condition).abs().max() == 0
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-2)
    for _ in range(3):
        loss = (unet(*batch(), condition) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.grad.abs().max() > 0 for parameter in unet.parameters())


def test_bfloat16_and_autocast_are_close_to_float32():
    unet = network(SDXL | {"upcast_attention": True})
    condition = sdxl_condition()
    with torch.no_grad():
        expected = unet(*batch(), condition)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = unet(*batch(), condition)
        half = unet.bfloat16()(*batch(), condition)
    for found in (autocast, half):
        assert (found.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("only_cross_attention", True),
        ("only_cross_attention", [True, False]),
        ("dual_cross_attention", True),
        ("reverse_transformer_layers_per_block", [[1], [1]]),
        ("encoder_hid_dim", 16),
        ("encoder_hid_dim_type", "text_proj"),
        ("num_attention_heads", 8),
        ("resnet_skip_time_act", True),
        ("resnet_out_scale_factor", 2.0),
        ("time_embedding_type", "fourier"),
        ("time_embedding_act_fn", "silu"),
        ("timestep_post_act", "silu"),
        ("time_cond_proj_dim", 256),
        ("conv_in_kernel", 1),
        ("conv_out_kernel", 5),
        ("attention_type", "gated"),
        ("class_embeddings_concat", True),
        ("cross_attention_norm", "layer_norm"),
        ("addition_embed_type", "image"),
        ("class_embed_type", "text"),
        ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("down_block_types", ["SimpleCrossAttnDownBlock2D", "DownBlock2D"]),
        ("up_block_types", ["UpBlock2D"]),
        ("attention_head_dim", 3),
        ("attention_head_dim", [2, 2, 2]),
        ("attention_head_dim", None),
        ("layers_per_block", [1, 0]),
        ("cross_attention_dim", None),
        ("transformer_layers_per_block", [[1], [1]]),
        ("norm_num_groups", None),
        ("norm_num_groups", 5),
        ("freq_shift", 4),
        ("use_linear_projection", "yes"),
        ("sample_size", [1, 2, 3]),
    ],
)
def test_unsupported_field_is_named(field, value):
    config = {"_class_name": "UNet2DConditionModel"} | SMALL | {field: value}
    with pytest.raises(NelboError, match=rf"'{field}': found .*supported: "):
        UNet.from_config(config)


@pytest.mark.parametrize("kind", ["projection", "simple_projection"])
def test_projections_need_their_width(kind):
    with pytest.raises(NelboError, match="projection_class_embeddings_input_dim"):
        TextUNetConfig(**SMALL, class_embed_type=kind)


@pytest.mark.parametrize(
    "field", ["projection_class_embeddings_input_dim", "addition_time_embed_dim"]
)
def test_text_time_needs_its_widths(field):
    with pytest.raises(NelboError, match=field):
        TextUNetConfig(**(SDXL | {field: None}))


def test_config_or_fields():
    with pytest.raises(NelboError, match="not both"):
        UNet(TextUNetConfig(**SMALL), in_channels=3)
    with pytest.raises(NelboError, match="expected UNetConfig, TextUNetConfig"):
        UNet({"in_channels": 3})
    assert isinstance(UNet.read_config({"sample_size": 8}), UNetConfig)


def test_signature_shapes_hold():
    jaxtyping = pytest.importorskip("jaxtyping")
    beartype = pytest.importorskip("beartype")
    checked = jaxtyping.jaxtyped(typechecker=beartype.beartype)(UNet.forward)
    assert checked(network(SDXL), *batch(), sdxl_condition()).shape == (2, 4, 8, 8)
