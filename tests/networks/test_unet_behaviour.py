"""What a UNet does with labels, precisions, and mistakes in its config or input."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.networks import UNet
from nelbo.networks.resampling import convolve_doubled, nearest

SMALL = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(**fields) -> UNet:
    """A small network none of whose weights is zero."""
    torch.manual_seed(0)
    made = UNet(**(SMALL | fields)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.2)
    return made


def batch(size: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, 8, 8, generator=generator), torch.tensor([0, 10, 999])[:size]


@pytest.mark.parametrize("fields", [{"num_class_embeds": 4}, {"class_embed_type": "timestep"}])
def test_no_label_adds_nothing(fields):
    unet = network(**fields)
    x_t, time = batch()
    unlabelled = unet(x_t, time)
    some = unet(x_t, time, Condition(label=torch.tensor([-1, 3, -1])))
    assert torch.equal(unet(x_t, time, Condition()), unlabelled)
    assert torch.allclose(some[[0, 2]], unlabelled[[0, 2]], atol=1e-6)
    assert not torch.allclose(some[1], unlabelled[1], atol=1e-3)


def test_no_label_sends_no_gradient_to_the_table():
    unet = network(num_class_embeds=4)
    x_t, time = batch()
    unet(x_t, time, Condition(label=torch.tensor([-1, 3, -1]))).square().sum().backward()
    touched = unet.class_embedding.weight.grad.abs().sum(1) > 0
    assert touched.tolist() == [False, False, False, True]


@pytest.mark.parametrize("label", [4, -2, 100])
def test_label_out_of_range(label):
    with pytest.raises(NelboError, match=rf"{label}.*num_class_embeds=4"):
        network(num_class_embeds=4)(*batch(1), Condition(label=torch.tensor([label])))


def test_label_without_classes():
    with pytest.raises(NelboError, match="without classes"):
        network()(*batch(1), Condition(label=torch.tensor([0])))


def test_time_beyond_the_learned_table():
    unet = network(time_embedding_type="learned", num_train_timesteps=10)
    with pytest.raises(NelboError, match="num_train_timesteps=10"):
        unet(batch(1)[0], torch.tensor([10]))


@pytest.mark.parametrize("shape", [(1, 3, 9, 8), (1, 3, 8, 7)])
def test_size_not_divisible(shape):
    with pytest.raises(NelboError, match="divisible by 2"):
        network()(torch.zeros(shape), torch.tensor([0]))


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 8, 8)])
@pytest.mark.usefixtures("without_shape_checks")
def test_wrong_shape(shape):
    with pytest.raises(NelboError, match="expected"):
        network()(torch.zeros(shape), torch.tensor([0]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("down_block_types", ("DownBlock2D", "CrossAttnDownBlock2D")),
        ("up_block_types", ("UpBlock2D",)),
        ("up_block_types", "UpBlock2D"),
        ("block_out_channels", (8, 0)),
        ("block_out_channels", ()),
        ("mid_block_type", "UNetMidBlock2DCrossAttn"),
        ("time_embedding_type", "spline"),
        ("num_train_timesteps", 0),
        ("downsample_padding", 2),
        ("downsample_type", "fir"),
        ("act_fn", "tanh"),
        ("act_fn", ["silu"]),
        ("resnet_time_scale_shift", "spatial"),
        ("class_embed_type", "projection"),
        ("norm_num_groups", 5),
        ("norm_num_groups", None),
        ("attn_norm_num_groups", 5),
        ("attention_head_dim", 32),
        ("layers_per_block", 1.5),
        ("in_channels", True),
        ("dropout", 2.0),
        ("norm_eps", "tiny"),
        ("freq_shift", 4),
        ("mid_block_scale_factor", 0),
        ("sample_size", -1),
    ],
)
def test_unsupported_field_is_named(field, value):
    with pytest.raises(NelboError, match=rf"'{field}': found .*supported: "):
        UNet.from_config(SMALL | {field: value})


def test_learned_time_needs_its_length():
    with pytest.raises(NelboError, match="num_train_timesteps"):
        UNet(**SMALL, time_embedding_type="learned")


def test_unknown_fields():
    with pytest.raises(NelboError, match="encoder_hid_dim"):
        UNet.from_config(SMALL | {"encoder_hid_dim": 16})
    with pytest.raises(NelboError, match="depth"):
        UNet(depth=3)
    UNet.from_config(SMALL | {"encoder_hid_dim": None, "_name_or_path": "somewhere"})


def test_other_class():
    with pytest.raises(NelboError, match="_class_name"):
        UNet.from_config(SMALL | {"_class_name": "AutoencoderKL"})


def test_config_is_frozen_and_complete():
    unet = UNet.from_config(SMALL | {"block_out_channels": [8, 16]})
    assert unet.config.block_out_channels == (8, 16)
    with pytest.raises(dataclasses.FrozenInstanceError):
        unet.config.dropout = 0.5


def test_fresh_network_predicts_zero_and_learns():
    torch.manual_seed(0)
    unet = UNet(**SMALL)
    x_t, time = batch()
    assert unet(x_t, time).abs().max() == 0
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-2)
    target = torch.randn(x_t.shape)
    losses = []
    for _ in range(20):
        loss = (unet(x_t, time) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(parameter.grad is not None for parameter in unet.parameters())


def test_dropout_is_active_in_training_only():
    unet = network(dropout=0.5)
    x_t, time = batch()
    assert torch.equal(unet(x_t, time), unet(x_t, time))
    unet.train()
    assert not torch.equal(unet(x_t, time), unet(x_t, time))


def test_fractional_and_scalar_time():
    unet = network()
    x_t, _ = batch()
    same = unet(x_t, torch.full((3,), 10.0))
    assert torch.allclose(unet(x_t, torch.full((3,), 10)), same)
    assert torch.allclose(unet(x_t, torch.tensor(10)), same)
    assert not torch.allclose(unet(x_t, torch.full((3,), 10.5)), same)


def test_inputs_are_left_alone():
    unet = network(num_class_embeds=2, center_input_sample=True, act_fn="relu")
    x_t, time = batch()
    condition = Condition(label=torch.tensor([-1, 0, 1]))
    copies = x_t.clone(), time.clone(), condition.label.clone()
    with torch.no_grad():
        without = unet(x_t, time, condition)
    with_gradient = unet(x_t, time, condition)
    assert torch.allclose(without, with_gradient, atol=1e-6)
    for now, before in zip((x_t, time, condition.label), copies, strict=True):
        assert torch.equal(now, before)


@pytest.mark.parametrize("shift", ["default", "scale_shift"])
def test_bfloat16_is_close_to_float32(shift):
    unet = network(num_class_embeds=4, resnet_time_scale_shift=shift)
    x_t, time = batch()
    condition = Condition(label=torch.tensor([0, -1, 3]))
    with torch.no_grad():
        expected = unet(x_t, time, condition)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = unet(x_t, time, condition)
        half = unet.bfloat16()(x_t, time, condition)
    assert half.dtype == torch.bfloat16
    for found in (autocast, half):
        assert (found.float() - expected).norm() < 0.05 * expected.norm()


def test_training_under_autocast():
    unet = network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = unet(*batch()).float().square().mean()
    loss.backward()
    for parameter in unet.parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


def test_gradients_agree_with_finite_differences():
    unet = network(num_class_embeds=2).double()
    x_t = batch(1)[0].double().requires_grad_()
    condition = Condition(label=torch.tensor([1]))
    assert torch.autograd.gradcheck(
        lambda x: unet(x, torch.tensor([5]), condition), (x_t,), fast_mode=True
    )


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (4, 5)])
def test_convolution_of_a_doubled_image(size):
    torch.manual_seed(0)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    conv = torch.nn.Conv2d(4, 6, 3, padding=1, dtype=torch.float64)
    found = convolve_doubled(x, conv.weight, conv.bias)
    assert torch.allclose(found, conv(nearest(x)), atol=1e-12)


def test_signature_shapes_hold():
    jaxtyping = pytest.importorskip("jaxtyping")
    beartype = pytest.importorskip("beartype")
    checked = jaxtyping.jaxtyped(typechecker=beartype.beartype)(UNet.forward)
    unet = network()
    assert checked(unet, *batch()).shape == (3, 3, 8, 8)
