"""Interpolation: the great circle, its ends, and what the frames are on an exact denoiser."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import Condition, NelboError, NoiseSchedule
from nelbo.editing import Interpolation, Inversion, slerp
from nelbo.samplers import DDIM, DDPM
from tests.diffusion.test_model import SHAPE, make
from tests.oracles.gaussian import gaussian_model


def test_slerp_is_the_rotation_between_two_vectors():
    a, b = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    fractions = torch.linspace(0, 1, 7).double()
    angles = fractions * math.pi / 2
    expected = torch.stack([angles.cos(), angles.sin()], 1)
    torch.testing.assert_close(slerp(a, b, fractions), expected)


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0, -1.0])
def test_slerp_goes_straight_where_there_is_no_circle(factor, generator):
    a = torch.randn(2, 3, generator=generator)
    fractions = torch.linspace(0, 1, 5)
    points = slerp(a, factor * a, fractions)
    expected = torch.stack([a + f * (factor - 1) * a for f in fractions])
    if factor == 0.0:  # zero is at a right angle to everything
        torch.testing.assert_close(points[[0, -1]], expected[[0, -1]], atol=1e-6, rtol=0)
    else:
        torch.testing.assert_close(points, expected)


def test_slerp_keeps_the_norm_of_noise(generator):
    a, b = torch.randn(2, 3, 64, 64, generator=generator)
    middle = slerp(a, b, torch.tensor([0.5]))[0]
    assert middle.std().item() == pytest.approx(1.0, abs=0.02)
    assert ((a + b) / 2).std().item() == pytest.approx(math.sqrt(0.5), abs=0.02)


def test_by_inversion_the_ends_are_the_images_and_the_way_is_the_circle():
    """For N(0, σ²) data the walk is a scaling, so the frames are on the circle of the images."""
    model = gaussian_model(0.5, NoiseSchedule.linear(1000), "fixed_small", shape=(1, 4, 4))
    ends = 0.5 * torch.randn(
        2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    edit = Interpolation(5, DDIM(20, spacing="trailing"), refinements=40)
    frames = edit.edit(model, ends)
    expected = slerp(ends[0], ends[1], torch.linspace(0, 1, 5).double())
    torch.testing.assert_close(frames, expected, rtol=1e-6, atol=1e-6)


def test_partway_inversion_stops_below():
    model = make()
    ends = torch.rand(2, *SHAPE, dtype=torch.float64) * 2 - 1
    edit = Interpolation(3, DDIM(12), strength=0.5, refinements=60)
    states = list(edit.iterate(model, ends))
    assert [state.t for state in states] == [5, 4, 3, 2, 1, 0]
    torch.testing.assert_close(states[-1].x[[0, 2]], ends, rtol=1e-5, atol=1e-5)


def test_by_diffusion_both_images_share_the_noise():
    model = make()
    image = torch.rand(1, *SHAPE, dtype=torch.float64) * 2 - 1
    edit = Interpolation(4, DDIM(6), "diffusion", strength=0.5)
    # between an image and itself nothing changes, whatever the noise
    frames = edit.edit(model, image.repeat(2, 1, 1, 1), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frames, frames[:1].expand_as(frames))
    # and generators of one seed give every frame the same noise on the way down as well
    generators = [torch.Generator().manual_seed(1) for _ in range(4)]
    stochastic = Interpolation(4, DDPM(6), "diffusion", strength=0.5)
    frames = stochastic.edit(model, image.repeat(2, 1, 1, 1), generator=generators)
    torch.testing.assert_close(frames, frames[:1].expand_as(frames))


def test_each_end_is_encoded_under_its_own_condition():
    model = make()
    ends = torch.rand(2, *SHAPE, dtype=torch.float64) * 2 - 1
    condition = Condition(label=torch.tensor([3, 5, 8]))
    sampler = DDIM(12)
    frames = Interpolation(3, sampler, refinements=60).edit(model, ends, condition=condition)
    torch.testing.assert_close(frames[[0, 2]], ends, rtol=1e-5, atol=1e-5)
    x_T = Inversion(sampler, 60).edit(model, ends, condition=condition[torch.tensor([0, 2])])
    middle = slerp(x_T[0], x_T[1], torch.tensor([0.5]).double())
    torch.testing.assert_close(frames[1:2], sampler.sample(model, middle, condition=condition[1:2]))


def test_inversion_is_not_guided_wherever_the_guidance_was_given():
    model, condition = make(), Condition(label=torch.tensor([3, 8]))
    ends = torch.rand(2, *SHAPE, dtype=torch.float64) * 2 - 1
    edit = Interpolation(2, DDIM(6))
    guided = edit.edit(model, ends, condition=condition, guidance=2.0)
    torch.testing.assert_close(edit.edit(model.guided(2.0), ends, condition=condition), guided)
    x_T = Inversion(DDIM(6), edit.refinements).edit(model, ends, condition=condition)
    walked = DDIM(6).sample(model, x_T, condition=condition, guidance=2.0)
    torch.testing.assert_close(guided, walked, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 1}, "frames must be at least 2"),
        ({"encoder": "magic"}, "unknown encoder 'magic'"),
        ({"strength": 0.0}, "strength must lie in"),
        ({"sampler": DDPM(5)}, "DDPM cannot be inverted"),
        ({"sampler": DDIM(5, eta=1.0)}, "eta must be 0"),
    ],
)
def test_mistakes_are_explained(options, message):
    with pytest.raises(NelboError, match=message):
        Interpolation(**options)


def test_an_interpolation_is_between_two():
    with pytest.raises(NelboError, match="between 2 images, got 3"):
        Interpolation(3, DDIM(5)).edit(make(), torch.zeros(3, *SHAPE).double())
