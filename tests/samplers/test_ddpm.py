"""Ancestral sampling against diffusers on the same network and noise."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch

from nelbo import Condition, Diffusion, NelboError, NoiseSchedule
from nelbo.samplers import DDPM
from tests.diffusion.test_model import PREDICTIONS, SHAPE, VARIANCES, Network, make
from tests.oracles.gaussian import gaussian_model


def peer_sample(model: Diffusion, x: torch.Tensor, steps: int, generator) -> torch.Tensor:
    scheduler = diffusers.DDPMScheduler(
        model.num_levels,
        beta_schedule="linear",
        prediction_type=model.prediction,
        variance_type=model.variance,
        clip_sample=model.clip_sample,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(steps)
    for time in scheduler.timesteps:
        output = model.network(x, time.expand(len(x)), None)
        x = scheduler.step(output, time, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [10, 50, 1000])
def test_equals_diffusers(steps, prediction, variance, clip):
    network = Network(2 if variance == "learned_range" else 1, torch.float32)
    model = Diffusion(
        network,
        NoiseSchedule.linear(1000),
        prediction=prediction,
        variance=variance,
        shape=SHAPE,
        clip_sample=clip,
    )
    x_T = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    ours = model.sample(3, DDPM(steps), x_T=x_T, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = peer_sample(model, x_T, steps, torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_all_steps_are_the_models_own_chain():
    model = make(variance="learned_range")
    own = model.sample(4, generator=torch.Generator().manual_seed(2))
    walked = model.sample(4, DDPM(), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(own, walked)


def test_states_count_down_to_the_data():
    model = make()
    states = list(DDPM(4).iterate(model, model.start(2)))
    assert [state.t for state in states] == [7, 4, 1, 0]
    torch.testing.assert_close(states[-1].x, states[-1].x_0)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 999, 1000])
def test_timesteps_equal_diffusers(spacing, steps):
    peer = diffusers.DDPMScheduler(1000, timestep_spacing=spacing)
    peer.set_timesteps(steps)
    assert DDPM(steps, spacing).timesteps(NoiseSchedule.linear()) == peer.timesteps.tolist()


def test_exact_model_samples_the_data_distribution(generator):
    model = gaussian_model(0.5, NoiseSchedule.linear(1000), "fixed_large", shape=(1, 4, 4))
    x = model.sample(2000, DDPM(200, "trailing"), generator=generator)
    assert x.mean().abs() < 0.02
    assert x.std().item() == pytest.approx(0.5, abs=0.02)


def test_guidance_extrapolates_in_one_call():
    class Labelled(Network):
        calls = 0

        def forward(self, x_t, time, condition=None):
            self.calls += 1
            return super().forward(x_t, time, condition)

    network = Labelled()
    model = Diffusion(network, NoiseSchedule.linear(5, 0.01, 0.4), shape=SHAPE)
    condition = Condition(label=torch.tensor([3, 8]))
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    guided = model.guided(4.0).predict(x, 3, condition).epsilon
    assert network.calls == 1
    conditional = model.predict(x, 3, condition).epsilon
    unconditional = model.predict(x, 3).epsilon
    torch.testing.assert_close(guided, unconditional + 4 * (conditional - unconditional))
    assert model.guided(1.0) is model
    for sampler in (None, DDPM()):
        samples = [
            model.sample(
                2,
                sampler,
                condition=condition,
                guidance=guidance,
                generator=torch.Generator().manual_seed(0),
            )
            for guidance in (1.0, 2.0)
        ]
        assert not math.isclose(samples[0].sum().item(), samples[1].sum().item())


def test_mistakes_are_explained():
    model = make()
    with pytest.raises(NelboError, match=r"1\.\.12"):
        model.sample(1, DDPM(13))
    with pytest.raises(NelboError, match="unknown spacing"):
        model.sample(1, DDPM(3, "even"))
    with pytest.raises(NelboError, match="needs a condition"):
        model.sample(1, guidance=2.0)
