"""A control at its levels, and pictures of another size as a ControlNet reads them."""

from __future__ import annotations

import warnings

import pytest
import torch

import nelbo
from nelbo import NelboError, NoiseSchedule
from nelbo.diffusion.control import fitting_control, under_control
from nelbo.networks import ControlNet
from nelbo.networks.control import Control, Strength

SIDE = 8
SMALL = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4}
BLOCKS = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}


def chain(T: int) -> nelbo.Diffusion:
    unet = nelbo.UNet(sample_size=SIDE, in_channels=1, out_channels=1, **SMALL, **BLOCKS)
    model = nelbo.Diffusion(unet, NoiseSchedule.linear(T, 0.01, 0.3), shape=(1, SIDE, SIDE))
    embedding = {"conditioning_embedding_out_channels": (4, 8), "conditioning_channels": 1}
    return model.with_controlnets(ControlNet.from_unet(unet, **embedding))


def test_it_acts_at_the_levels_of_its_part_of_the_way():
    """Levels t with start ≤ 1 − t/T < end, in whole numbers: of every part in tenths of T = 10."""
    T, model = 10, chain(10)
    image = torch.zeros(1, 1, 2 * SIDE, 2 * SIDE)
    parts = [(a, b) for a in range(T) for b in range(a + 1, T + 1)]
    for first, last in parts:
        control = Control(image, start=first / T, end=last / T)
        controlled, _ = under_control(model, 1, control)
        (strength,) = controlled.network.strengths
        times = model.schedule.network_times
        acts = [t for t in range(1, T + 1) if strength.at(times[t]) is not None]
        assert acts == [t for t in range(1, T + 1) if first <= T - t < last]


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        ((10, 8), slice(3, 7), slice(0, 8)),
        ((4, 12), slice(0, 4), slice(2, 10)),
        ((7, 8), slice(1, 5), slice(0, 8)),
        ((4, 8), slice(0, 4), slice(0, 8)),
    ],
)
@pytest.mark.filterwarnings("ignore:the control is")
def test_a_control_is_cut_in_its_middle(size, rows, columns, generator):
    image = torch.rand(1, 1, *size, generator=generator).double()
    found = fitting_control(image, (1, 4, 8), 3)
    assert found.dtype == image.dtype
    assert torch.equal(found, image[:, :, rows, columns].float().double().expand(3, -1, -1, -1))


@pytest.mark.filterwarnings("ignore:the control is")
def test_a_control_of_twice_the_size_is_averaged():
    """Far from a step, each pixel has the value on its side of it."""
    image = torch.zeros(1, 1, 8, 20)
    image[..., 10:] = 1
    found = fitting_control(image, (1, 4, 8), 1)
    assert found.shape == (1, 1, 4, 8)
    torch.testing.assert_close(found[..., :3], torch.zeros(1, 1, 4, 3))
    torch.testing.assert_close(found[..., 5:], torch.ones(1, 1, 4, 3))


@pytest.mark.parametrize("sign", [1, -1])
def test_values_beyond_twice_the_range_are_no_shares(sign):
    image = torch.zeros(1, 1, 4, 8)
    image[0, 0, 1, 2] = 2.0 * sign
    assert torch.equal(fitting_control(image, (1, 4, 8), 1), image)
    with pytest.raises(NelboError, match="divide pixel levels"):
        fitting_control(1.01 * image, (1, 4, 8), 1)


def test_a_control_of_the_whole_way_leaves_a_model_its_own_part():
    model = chain(10)
    model = model.replace(network=model.network.acting([Strength(0.5, times=(2.0, 5.0))]))
    image = torch.zeros(1, 1, 2 * SIDE, 2 * SIDE)
    same, condition = under_control(model, 3, Control(image))
    assert same is model
    assert condition.control.shape == (3, 1, 2 * SIDE, 2 * SIDE)
    stronger, _ = under_control(model, 3, Control(image, 2.0))
    assert stronger.network.strengths[0] == Strength(2.0, times=(2.0, 5.0))


def test_of_a_line_of_pixels_one_is_cut(generator):
    image = torch.rand(1, 1, 100, 1, generator=generator)
    with pytest.warns(UserWarning, match="100×1, the model takes 4×8"):
        found = fitting_control(image, (1, 4, 8), 1)
    torch.testing.assert_close(found, image[:, :, 49:50].expand(1, 1, 4, 8))


def test_a_control_of_the_size_is_left_as_it_is():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitting_control(torch.zeros(1, 1, 4, 8), (1, 4, 8), 1)
        assert fitting_control(torch.zeros(1, 1, 5, 9), (1, 4, 8), 2, exact=True).shape[2:] == (
            5,
            9,
        )
