import itertools

import pytest
import torch

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import draw
from nelbo.diffusion import NoiseSchedule
from nelbo.report.grids import to_bytes
from nelbo.report.strips import forward_strip, reverse_strip, shown_levels, to_picture
from tests.report.examples import make_images, make_model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_forward_strip_begins_with_the_data_and_ends_at_the_prior(model):
    images = make_images(3)
    strip = forward_strip(model, model.data.to_network(images), 5, generator())
    assert strip.images.shape == (3, 5, 1, 8, 8)
    assert strip.images.dtype == torch.uint8
    assert torch.equal(strip.images[:, 0], to_bytes(images, 17))
    assert strip.levels[0] == 0
    assert strip.levels[-1] == model.num_levels
    assert strip.noise_scales == tuple(model.schedule.noise_scale[list(strip.levels)].tolist())


def test_forward_frames_have_the_moments_of_the_encoder(model):
    x_0 = torch.full((4000, 1, 2, 2), 0.25)
    strip = forward_strip(make_model(shape=(1, 2, 2)), x_0, 4, generator())
    for frame, t in enumerate(strip.levels[1:], start=1):
        shown = strip.images[:, frame].double() / 127.5 - 1
        drawn = draw(model.q_marginal(x_0, t), generator(9)).clamp(-1, 1)
        assert shown.mean().item() == pytest.approx(drawn.mean().item(), abs=0.03)
        assert shown.std().item() == pytest.approx(drawn.std().item(), abs=0.02)


def test_a_forward_row_is_one_path_and_not_fresh_noise_a_frame():
    x_0 = torch.zeros(4000, 1, 2, 2)
    strip = forward_strip(make_model(T=200, shape=(1, 2, 2)), x_0, 12, generator())
    a, b = (strip.images[:, k].double().flatten() for k in (4, 5))
    correlation = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
    assert correlation > 0.6


def test_the_reverse_strip_ends_in_the_sample_that_the_model_draws(model):
    strip = reverse_strip(model, 2, 6, generator(3))
    sample = model.sample(2, generator=generator(3))
    assert strip.levels[0] == model.num_levels
    assert strip.levels[-1] == 0
    assert torch.equal(strip.images[:, -1], to_picture(sample))
    assert torch.equal(strip.predictions[:, -1], strip.images[:, -1])
    assert strip.predictions.shape == strip.images.shape == (2, 6, 1, 8, 8)


def test_a_condition_reaches_every_call(model):
    seen = []
    network = model.network.forward

    def watching(x_t, time, condition=None):
        seen.append(condition)
        return network(x_t, time, condition)

    model.network.forward = watching
    condition = Condition(label=torch.tensor([1, 2]))
    reverse_strip(model, 2, 4, generator(), condition)
    assert all(c is condition for c in seen)


@pytest.mark.parametrize("T", [1, 2, 3, 50, 1000])
@pytest.mark.parametrize("frames", [2, 3, 12])
@pytest.mark.parametrize("make", [NoiseSchedule.cosine, NoiseSchedule.geometric])
def test_shown_levels_increase_from_0_to_T(T, frames, make):
    levels = shown_levels(make(T), frames)
    assert levels[0] == 0
    assert levels[-1] == T
    assert all(a < b for a, b in itertools.pairwise(levels))
    assert len(levels) == min(frames, T + 1)


def test_shown_levels_are_even_in_angle():
    schedule = NoiseSchedule.geometric(1000)
    angles = torch.arcsin(schedule.noise_scale[shown_levels(schedule, 10)])
    steps = angles.diff()
    assert steps.max() < 1.1 * steps.min()


def test_a_strip_needs_two_frames(model):
    with pytest.raises(NelboError, match="frames must be at least 2"):
        reverse_strip(model, 1, 1)


def test_pictures_clamp_and_survive_nan():
    x = torch.tensor([-5.0, -1.0, 0.0, 1.0, 9.0, float("nan"), float("inf")])
    assert to_picture(x).tolist() == [0, 0, 128, 255, 255, 128, 255]
