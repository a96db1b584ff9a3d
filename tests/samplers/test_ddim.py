"""DDIM against diffusers on the same network and noise, and against the exact transport."""

from __future__ import annotations

import math
from itertools import pairwise

import diffusers
import pytest
import torch

from nelbo import Diffusion, NelboError, NoiseSchedule
from nelbo.samplers import DDIM, DDPM
from tests.diffusion.test_model import PREDICTIONS, SHAPE, Network, make
from tests.oracles.gaussian import gaussian_model

SPACINGS = ("leading", "linspace", "trailing")


def peer(model: Diffusion, sampler: DDIM) -> diffusers.DDIMScheduler:
    scheduler = diffusers.DDIMScheduler(
        model.num_levels,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=model.prediction,
        clip_sample=model.clip_sample,
        timestep_spacing=sampler.spacing,
        steps_offset=sampler.steps_offset,
        set_alpha_to_one=sampler.set_alpha_to_one,
    )
    scheduler.set_timesteps(sampler.steps)
    return scheduler


def peer_sample(model: Diffusion, sampler: DDIM, x: torch.Tensor) -> torch.Tensor:
    scheduler = peer(model, sampler)
    generator = torch.Generator().manual_seed(1)
    for time in scheduler.timesteps:
        output = model.network(x, time.expand(len(x)), None)
        step = scheduler.step(output, time, x, eta=sampler.eta, generator=generator)
        x = step.prev_sample
    return x


def compare(sampler: DDIM, prediction: str = "epsilon", clip: bool = False) -> None:
    model = Diffusion(
        Network(dtype=torch.float32),
        NoiseSchedule.scaled_linear(1000),
        prediction=prediction,
        shape=SHAPE,
        clip_sample=clip,
    )
    assert sampler.timesteps(model.schedule) == peer(model, sampler).timesteps.tolist()
    x_T = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    ours = model.sample(3, sampler, x_T=x_T, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = peer_sample(model, sampler, x_T)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [10, 50])
def test_equals_diffusers(steps, eta, prediction, spacing, clip):
    # Of these only linspace has steps that do not lead to the next level visited.
    sampler = DDIM(steps, eta, spacing=spacing)
    compare(sampler, prediction, clip)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
@pytest.mark.parametrize("offset", [0, 1])
def test_settings_of_stable_diffusion_equal_diffusers(offset, set_alpha_to_one, eta):
    compare(DDIM(20, eta, steps_offset=offset, set_alpha_to_one=set_alpha_to_one))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 7, 30, 999, 1000])
def test_timesteps_equal_diffusers(spacing, steps):
    scheduler = diffusers.DDIMScheduler(1000, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    assert DDIM(steps, spacing=spacing).timesteps(NoiseSchedule.linear()) == (
        scheduler.timesteps.tolist()
    )


@pytest.mark.parametrize("steps", [7, 12])
def test_fully_stochastic_is_the_ancestral_chain(steps):
    model = make()
    x_T = model.start(4).double()
    walks = [
        model.sample(4, sampler, x_T=x_T, generator=torch.Generator().manual_seed(2))
        for sampler in (DDIM(steps, eta=1.0), DDPM(steps))
    ]
    torch.testing.assert_close(*walks)


def test_converges_to_the_exact_transport_at_first_order():
    """N(0, σ²) data: the ODE's exact map is a scaling, √(ᾱ_0 σ² + 1 − ᾱ_0) over that at T."""
    stddev, T = 0.5, 6400
    model = gaussian_model(
        stddev, NoiseSchedule.linear(T, 1e-4 / 6.4, 0.02 / 6.4), "fixed_small", shape=(1, 4, 4)
    )
    x_T = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    a = model.schedule.alphas_cumprod[-1]
    exact = x_T * stddev / torch.sqrt(a * stddev**2 + 1 - a)
    errors = [
        (model.sample(1, DDIM(steps, spacing="trailing"), x_T=x_T) - exact).abs().max().item()
        for steps in (50, 100, 200, 400)
    ]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] == pytest.approx(1.0, abs=0.1), (errors, slopes)


def test_a_walk_uses_the_respaced_chain_of_a_respaced_model():
    model = make()
    short = model.respace([1, 4, 8, 12])
    assert DDIM(2).timesteps(short.schedule) == [7, 0]
    states = list(DDIM(4).iterate(short, short.start(2)))
    assert [state.t for state in states] == [3, 2, 1, 0]
    torch.testing.assert_close(states[-1].x, states[-1].x_0)


def test_mistakes_are_explained():
    model = make()
    with pytest.raises(NelboError, match=r"1\.\.12"):
        model.sample(1, DDIM(13))
    with pytest.raises(NelboError, match=r"eta must lie in 0\.\.1"):
        DDIM(5, eta=1.5)
    for sampler in (DDIM(12, steps_offset=1), DDPM(12, steps_offset=1)):
        with pytest.raises(NelboError, match="steps_offset=1"):
            model.sample(1, sampler)
