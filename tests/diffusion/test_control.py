"""A control at its levels, and pictures of another size as a ControlNet reads them."""

from __future__ import annotations

import pytest
import torch

import nelbo
from nelbo import NelboError, NoiseSchedule
from nelbo.diffusion.control import fitting_control, under_control
from nelbo.networks import ControlNet
from nelbo.networks.control import Control

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
