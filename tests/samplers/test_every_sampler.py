"""What holds for each sampler of the registry, whatever its step."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nelbo import Condition, Continuous, Diffusion, NelboError, NoiseSchedule, samplers
from nelbo.diffusion.sampler import check_sampler
from nelbo.editing import ImageToImage
from nelbo.samplers import SAMPLERS, DPMSolver, Heun
from nelbo.samplers.watched import Watched
from tests.diffusion.test_model import SHAPE, make
from tests.latent.test_model import make as tiny_latent

EVERY = [getattr(samplers, kind)(6) for kind in SAMPLERS.values()]
VARIANTS = [Heun(6, S_churn=3.0), DPMSolver(6, 3), DPMSolver(6, 2, stochastic=True)]
every_sampler = pytest.mark.parametrize(
    "sampler", [*EVERY, *VARIANTS], ids=lambda sampler: type(sampler).__name__
)


@every_sampler
def test_walks_respaced_and_guided_chains(sampler):
    model = make().respace([1, 2, 4, 7, 9, 10, 12])
    condition = Condition(label=torch.tensor([3, 8]))
    x_T = torch.randn(2, *SHAPE, dtype=torch.float64)
    model.network.times.clear()
    states = list(sampler.iterate(model, x_T, condition=condition, guidance=2.0))
    assert len(states) == len(sampler.path(model.schedule)) == 6
    levels = [state.t for state in states]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 0
    torch.testing.assert_close(states[-1].x, states[-1].x_0)
    called = [time[0].item() for time in model.network.times]
    assert all(len(time) == 4 for time in model.network.times)  # both halves in one call
    assert max(called) <= 11
    if getattr(sampler, "S_churn", 0.0) == 0:
        assert list(sampler.timesteps(model.schedule)) == pytest.approx(called)
    unguided = sampler.sample(model, x_T, condition=condition)
    assert not torch.allclose(unguided, states[-1].x)


@every_sampler
def test_without_a_word_of_it_nothing_is_guided(sampler):
    """Guidance by 1 is the model itself, and that is what is left open."""
    model, condition = make(), Condition(label=torch.tensor([3, 8]))
    x_T = torch.randn(2, *SHAPE, dtype=torch.float64)

    def seeded() -> dict[str, torch.Generator | Condition]:
        return {"condition": condition, "generator": torch.Generator().manual_seed(0)}

    expected = sampler.sample(model, x_T, guidance=1.0, **seeded())
    assert not torch.equal(sampler.sample(model, x_T, guidance=0.0, **seeded()), expected)
    *_, end = sampler.iterate(model, x_T, **seeded())
    for found in (sampler.sample(model, x_T, **seeded()), end.x):
        assert torch.equal(found, expected)


def test_only_samplers_are_taken_for_them():
    for right in (None, *EVERY, Watched(Heun(6), lambda *_: None)):
        check_sampler(right)
    for wrong, named in ((Heun, "the class Heun"), ("heun", "str 'heun'"), (6, "int 6")):
        with pytest.raises(NelboError, match=f"sampler is {named}, expected one of nelbo.samplers"):
            check_sampler(wrong)


@every_sampler
def test_noise_of_each_example_is_its_own(sampler):
    model = make()
    x_T = torch.randn(3, *SHAPE, dtype=torch.float64)
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    together = sampler.sample(model, x_T, generator=generators)
    alone = sampler.sample(model, x_T[1:2], generator=[torch.Generator().manual_seed(1)])
    torch.testing.assert_close(together[1:2], alone)


@every_sampler
def test_states_are_of_the_type_that_the_walk_starts_with(sampler):
    model = make(dtype=torch.float32)
    x_T = torch.randn(2, *SHAPE)
    for state in sampler.iterate(model, x_T):
        assert state.x.dtype == state.x_0.dtype == torch.float32


@every_sampler
def test_visits_levels_of_ones_own_and_leaves_out_steps(sampler):
    schedule = make().schedule
    own = dataclasses.replace(sampler, levels=[1, 2, 5, 11])
    assert [level.t for level, _ in own.path(schedule)] == [11, 5, 2, 1]
    assert [following.t for _, following in own.path(schedule)] == [5, 2, 1, 0]
    assert own.visited(schedule) == [1, 2, 5, 11]
    later = dataclasses.replace(sampler, skip=4)
    assert later.path(schedule) == sampler.path(schedule)[4:]
    assert later.start_level(schedule) == later.path(schedule)[0][0]


@every_sampler
@pytest.mark.parametrize(
    "schedule",
    [*map(NoiseSchedule.linear, (1, 2, 3)), *map(NoiseSchedule.flow_matching, (1, 2, 3))],
)
def test_data_that_are_one_point_are_found_from_anywhere(sampler, schedule):
    """E[x_0|x_t] is the point, so that every walk to the data ends there: in chains of one level,
    and from noise without signal."""
    point = torch.tensor([-0.3, 0.7], dtype=torch.float64).view(1, 2, 1, 1)
    called: list[float] = []

    def network(x, time, condition):
        called.append(time[0].item())
        return point.expand_as(x)

    model = Diffusion(
        network,
        schedule,
        prediction="sample",
        data=Continuous(),
        shape=(2, 1, 1),
    )
    x_T = torch.randn(3, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for steps in range(1, schedule.num_levels + 1):
        walk = dataclasses.replace(sampler, steps=steps)
        called.clear()
        x = walk.sample(model, x_T)
        torch.testing.assert_close(x, point.expand_as(x), atol=1e-9, rtol=0)
        assert len(walk.timesteps(schedule)) == len(called)
        if getattr(sampler, "S_churn", 0.0) == 0:
            assert list(walk.timesteps(schedule)) == pytest.approx(called)


@every_sampler
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 13}, r"steps must lie in 1\.\.12"),
        ({"steps": 0}, r"steps must lie in 1\.\.12"),
        ({"levels": [3, 2]}, r"levels must increase and lie in 1\.\.12"),
        ({"levels": [1.5, 3]}, "levels must be integers"),
        ({"skip": 6}, r"skip must lie in 0\.\.5 of 6 steps"),
    ],
)
def test_mistakes_are_explained(sampler, options, message):
    with pytest.raises(NelboError, match=message):
        make().sample(1, dataclasses.replace(sampler, **options))


@pytest.mark.parametrize(("name", "kind"), SAMPLERS.items())
def test_is_described(name, kind):
    page = (Path(__file__).parents[2] / "docs" / "samplers.md").read_text(encoding="utf-8")
    assert f"`{kind}(" in page
    assert getattr(samplers, kind).__module__ == f"nelbo.samplers.{name}"


@pytest.mark.parametrize("kind", SAMPLERS.values())
def test_spacings_that_there_are_not_are_refused(kind):
    with pytest.raises(NelboError, match="unknown spacing 'even'"):
        make().sample(1, getattr(samplers, kind)(6, spacing="even"))


@every_sampler
def test_watching_changes_nothing(sampler):
    model, seen = make(), []
    watched = Watched(sampler, lambda k, state: seen.append((k, state.x)))
    drawn = [
        model.sample(2, each, generator=torch.Generator().manual_seed(3))
        for each in (sampler, watched)
    ]
    assert torch.equal(*drawn)
    assert [k for k, _ in seen] == list(range(6))
    assert torch.equal(seen[-1][1], drawn[0])


def test_what_is_left_open_is_as_in_the_papers():
    """18 steps with ρ = 7 are those of Karras et al. 2022, 50 those of DDIM in diffusers."""
    usual = {"spacing": "trailing", "steps_offset": 0, "skip": 0, "levels": None}
    assert samplers.DDPM() == samplers.DDPM(None, **usual)
    ddim = {"set_alpha_to_one": True, "even_stride": False}
    assert samplers.DDIM() == samplers.DDIM(50, 0.0, **ddim, **usual)
    sigma = {"steps_offset": 0, "skip": 0, "rho": 7.0, "shift": 1.0, "times": None, "levels": None}
    solver = {"spacing": None, "lower_orders_below": 0, "euler_at_final": False}
    solver |= {"set_alpha_to_one": True, "stochastic": False, "solver_type": "midpoint"}
    assert DPMSolver() == DPMSolver(20, 2, **sigma, **solver, halve_second_derivative=False)
    churn = {"S_churn": 0.0, "S_tmin": 0.0, "S_tmax": math.inf, "S_noise": 1.0}
    for kind in (samplers.Euler, Heun):
        assert kind() == kind(18, **sigma, **churn, spacing=None)
        assert kind().kind_of_levels == "karras"
    assert DPMSolver().kind_of_levels == "log_snr"


@every_sampler
def test_what_is_no_model_state_or_schedule_is_refused(sampler):
    model, x_T = make(), torch.zeros(2, *SHAPE)
    latent = tiny_latent()
    for walk in (sampler.iterate, sampler.sample):
        for wrong in (None, latent, torch.nn.Identity()):
            with pytest.raises(NelboError, match=r"^model is .*expected a Diffusion"):
                walk(wrong, x_T)
        for state in (None, x_T.numpy(), x_T.bool(), x_T[0, 0, 0], x_T[:, :, 1:], x_T[:0]):
            with pytest.raises(NelboError, match=r"x_T|number of samples"):
                walk(model, state)
    with pytest.raises(NelboError, match=r"^model is .*expected a Diffusion"):
        ImageToImage(sampler).edit(latent, x_T)
    for wrong in (model, None):
        with pytest.raises(NelboError, match=r"^schedule is .*expected the NoiseSchedule"):
            sampler.timesteps(wrong)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (samplers.DDIM, {"set_alpha_to_one": "no"}, "set_alpha_to_one is str 'no'"),
        (samplers.DDIM, {"even_stride": torch.zeros(0)}, "even_stride is a Tensor"),
        (DPMSolver, {"stochastic": 1}, "stochastic is int 1"),
        (DPMSolver, {"lower_orders_below": None}, "lower_orders_below must be a whole number"),
        (DPMSolver, {"noise_levels": np.zeros(2)}, "noise levels"),
        (DPMSolver, {"spacing": np.zeros(2)}, "spacing"),
        (Heun, {"noise_levels": torch.zeros(2)}, "noise levels"),
    ],
)
def test_options_of_another_type_are_refused_by_name(kind, options, message):
    with pytest.raises(NelboError, match=message):
        kind(6, **options)


def test_numbers_may_be_arrays_and_times_are_a_list():
    schedule, rho = make().schedule, torch.tensor(5)
    of_array = Heun(6, rho=rho, noise_levels="karras").timesteps(schedule)
    assert of_array == Heun(6, rho=5.0, noise_levels="karras").timesteps(schedule)
    with pytest.raises(NelboError, match=r"^times is int 3"):
        Heun(6, times=3).timesteps(schedule)
