"""DDIM: its settings, and how it stands to the ancestral chain."""

from __future__ import annotations

import pytest
import torch

from nelbo import NelboError
from nelbo.samplers import DDIM, DDPM
from tests.diffusion.test_model import make
from tests.samplers.peers import compare, model_of


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
@pytest.mark.parametrize("offset", [0, 1])
def test_settings_of_stable_diffusion_equal_diffusers(offset, set_alpha_to_one, eta):
    sampler = DDIM(20, eta, steps_offset=offset, set_alpha_to_one=set_alpha_to_one)
    compare(model_of(), sampler, 20, eta=eta)


@pytest.mark.parametrize("steps", [7, 12])
def test_fully_stochastic_is_the_ancestral_chain(steps):
    model = make()
    x_T = model.start(4).double()
    walks = [
        model.sample(4, sampler, x_T=x_T, generator=torch.Generator().manual_seed(2))
        for sampler in (DDIM(steps, eta=1.0, spacing="leading"), DDPM(steps, spacing="leading"))
    ]
    torch.testing.assert_close(*walks)


def test_a_walk_uses_the_respaced_chain_of_a_respaced_model():
    model = make()
    short = model.respace([1, 4, 8, 12])
    assert DDIM(2).timesteps(short.schedule) == [11, 3]
    states = list(DDIM(4).iterate(short, short.start(2)))
    assert [state.t for state in states] == [3, 2, 1, 0]
    torch.testing.assert_close(states[-1].x, states[-1].x_0)


def test_walks_visit_the_levels_they_are_given():
    model = make()
    levels = [1, 2, 5, 11]
    x_T = model.start(2).double()
    for sampler in (DDIM(levels=levels, eta=1.0), DDPM(levels=levels)):
        assert sampler.timesteps(model.schedule) == [10, 4, 1, 0]
        assert [state.t for state in sampler.iterate(model, x_T)] == [5, 2, 1, 0]
        generators = [torch.Generator().manual_seed(3) for _ in range(2)]
        ours = sampler.sample(model, x_T, generator=generators[0])
        chain = model.respace(levels).sample(2, x_T=x_T, generator=generators[1])
        torch.testing.assert_close(ours, chain)


def test_an_even_stride_through_every_level_is_one():
    model, x_T = make(), make().start(2, generator=torch.Generator().manual_seed(0))
    even = DDIM(None, even_stride=True).sample(model, x_T)
    assert torch.equal(even, DDIM(None).sample(model, x_T))


def test_mistakes_are_explained():
    model = make()
    with pytest.raises(NelboError, match=r"eta must lie in 0\.\.1"):
        DDIM(5, eta=1.5)
    for levels in ([], [3, 3], [5, 2], [0, 4], [4, 13]):
        for sampler in (DDIM(levels=levels), DDPM(levels=levels)):
            with pytest.raises(NelboError, match=r"levels must increase and lie in 1\.\.12"):
                model.sample(1, sampler)
    for sampler in (
        DDIM(12, spacing="leading", steps_offset=1),
        DDPM(12, spacing="leading", steps_offset=1),
    ):
        with pytest.raises(NelboError, match="steps_offset=1"):
            model.sample(1, sampler)


@pytest.mark.parametrize(("steps", "spacing", "offset"), [(7, "trailing", 0), (600, "leading", 1)])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_even_stride_that_ends_above_the_data_equals_diffusers(steps, spacing, offset, eta):
    sampler = DDIM(steps, eta, spacing=spacing, steps_offset=offset, even_stride=True)
    compare(model_of(), sampler, steps, eta=eta)
    assert [state.t for state in sampler.iterate(model_of(), model_of().start(1))][-1] == 0


@pytest.mark.parametrize("eta", [-0.5, -1e-9, 1.5, 2.0])
def test_eta_lies_between_none_of_the_noise_and_all_of_it(eta):
    assert (DDIM(5, eta=0).eta, DDIM(5, eta=1).eta) == (0, 1)
    with pytest.raises(NelboError, match="eta must"):
        DDIM(5, eta=eta)
