"""Ancestral sampling: the model's own chain, its distribution, guidance."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo import Condition, Diffusion, NelboError, NoiseSchedule
from nelbo.samplers import DDPM
from tests.diffusion.test_model import SHAPE, VARIANCES, Network, make
from tests.oracles.gaussian import gaussian_model
from tests.samplers.peers import compare, model_of


@pytest.mark.parametrize("variance", VARIANCES)
def test_all_steps_equal_diffusers(variance):
    compare(model_of(variance=variance), DDPM(1000), 1000)


def test_all_steps_are_the_models_own_chain():
    model = make(variance="learned_range")
    own = model.sample(4, generator=torch.Generator().manual_seed(2))
    walked = model.sample(4, DDPM(), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(own, walked)


def test_states_count_down_to_the_data():
    model = make()
    states = list(DDPM(4).iterate(model, model.start(2)))
    assert [state.t for state in states] == [9, 6, 3, 0]
    torch.testing.assert_close(states[-1].x, states[-1].x_0)


def test_exact_model_samples_the_data_distribution(generator):
    model = gaussian_model(0.5, NoiseSchedule.linear(1000), "fixed_large", shape=(1, 4, 4))
    x = model.sample(2000, DDPM(200, spacing="trailing"), generator=generator)
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
    with pytest.raises(NelboError, match="needs a condition"):
        model.sample(1, guidance=2.0)
