"""DDIM inversion against diffusers, and there and back on exact denoisers."""

from __future__ import annotations

import math
from itertools import pairwise

import diffusers
import pytest
import torch

from nelbo import Condition, Diffusion, NelboError, NoiseSchedule
from nelbo.editing import Inversion
from nelbo.samplers import DDIM
from tests.diffusion.test_model import PREDICTIONS, SHAPE, Network
from tests.oracles.gaussian import gaussian_model


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0)])
@pytest.mark.parametrize("steps", [10, 50])
def test_equals_diffusers(steps, spacing, offset, set_alpha_to_one):
    model = Diffusion(Network(dtype=torch.float32), NoiseSchedule.linear(1000), shape=SHAPE)
    scheduler = diffusers.DDIMInverseScheduler(
        1000,
        clip_sample=False,
        timestep_spacing=spacing,
        steps_offset=offset,
        set_alpha_to_one=set_alpha_to_one,
    )
    scheduler.set_timesteps(steps)
    sampler = DDIM(steps, spacing=spacing, steps_offset=offset, set_alpha_to_one=set_alpha_to_one)
    x = x_0 = torch.rand(3, *SHAPE) * 2 - 1
    states = list(Inversion(sampler).iterate(model, x_0))
    assert [state.t - 1 for state in states] == scheduler.timesteps.tolist()
    with torch.no_grad():
        for time in scheduler.timesteps:
            output = model.network(x, time.expand(len(x)), None)
            x = scheduler.step(output, time, x).prev_sample
    torch.testing.assert_close(states[-1].x, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("even_stride", [False, True])
def test_every_walk_of_ddim_is_undone(spacing, even_stride):
    """An even stride goes to other levels than those that are visited next."""
    model = Diffusion(
        lambda x, time, condition: 0.5 * torch.tanh(x) * (1 + time.view(-1, 1, 1, 1) / 3000),
        NoiseSchedule.linear(1000),
        shape=(1, 2, 2),
    )
    sampler = DDIM(7, spacing=spacing, even_stride=even_stride)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 1, 2, 2)
    x_T = Inversion(sampler, refinements=40).edit(model, x)
    torch.testing.assert_close(sampler.sample(model, x_T), x, rtol=0, atol=1e-9)


def exact() -> Diffusion:
    return gaussian_model(0.5, NoiseSchedule.linear(1000), "fixed_small", shape=(1, 4, 4))


def test_inversion_converges_to_the_exact_transport():
    """N(0, σ²) data: x_T = x_0 √(ᾱ_T σ² + 1 − ᾱ_T) / σ."""
    model = exact()
    x_0 = 0.5 * torch.randn(1, 1, 4, 4, dtype=torch.float64)
    signal = model.schedule.alphas_cumprod[-1]
    x_T = x_0 * torch.sqrt(signal * 0.5**2 + 1 - signal) / 0.5
    errors = [
        (Inversion(DDIM(steps, spacing="trailing")).edit(model, x_0) - x_T).abs().max().item()
        for steps in (50, 100, 200)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05 * x_T.abs().max()


def round_trip(steps: int, refinements: int) -> float:
    model, sampler = exact(), DDIM(steps, spacing="trailing")
    x_0 = 0.5 * torch.randn(
        1, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    x_T = Inversion(sampler, refinements).edit(model, x_0)
    return (sampler.sample(model, x_T) - x_0).abs().max().item()


def test_the_round_trip_error_shrinks_with_the_steps():
    errors = [round_trip(steps, 0) for steps in (50, 100, 200)]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert min(slopes) > 0.8, (errors, slopes)


def test_refinements_lead_to_the_exact_inverse():
    errors = [round_trip(50, refinements) for refinements in (0, 1, 3, 20)]
    assert errors == sorted(errors, reverse=True), errors
    assert errors[-1] < 1e-7


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_round_trip_of_every_prediction(prediction):
    model = Diffusion(
        Network(), NoiseSchedule.linear(20, 1e-3, 0.2), prediction=prediction, shape=SHAPE
    )
    # within what the network can predict, so that there is an x_T that leads to it
    x_0 = torch.rand(2, *SHAPE, dtype=torch.float64) - 0.4
    condition, sampler = Condition(label=torch.tensor([1, 2])), DDIM(20)
    x_T = Inversion(sampler, 40).edit(model, x_0, condition=condition)
    back = sampler.sample(model, x_T, condition=condition)
    torch.testing.assert_close(back, x_0, rtol=1e-5, atol=1e-5)


def test_mistakes_are_explained():
    with pytest.raises(NelboError, match=r"eta must be 0, got 0\.5"):
        Inversion(DDIM(5, eta=0.5))
    with pytest.raises(NelboError, match="refinements must be at least 0"):
        Inversion(DDIM(5), -1)
