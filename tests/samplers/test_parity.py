"""Every sampler against diffusers on the same network and noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nelbo import NoiseSchedule
from nelbo.diffusion import DynamicThreshold, StaticThreshold
from nelbo.samplers import DDIM, DDPM, DPMSolver, Euler, Heun, Sampler
from tests.diffusion.test_model import PREDICTIONS, VARIANCES
from tests.samplers.peers import SPACINGS, compare, model_of, scheduler_of

# Of a solver of the peer.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# What diffusers does otherwise than the paper.
PEER = {"lower_orders_below": 15, "halve_second_derivative": True}

every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)
every_spacing = pytest.mark.parametrize("spacing", SPACINGS)
# One that divides the levels and one that does not; fifty as users have them.
every_count = pytest.mark.parametrize("steps", [5, 16, pytest.param(50, marks=pytest.mark.slow)])
with_and_without_clip = pytest.mark.parametrize("clip", [False, True])


def kind_of(sampler: Sampler) -> str:
    return type(sampler).__name__


@with_and_without_clip
@every_spacing
@every_prediction
@every_count
@pytest.mark.parametrize("variance", VARIANCES)
def test_ddpm(variance, steps, prediction, spacing, clip):
    model = model_of(prediction, variance=variance, clip_sample=clip)
    compare(model, DDPM(steps, spacing=spacing), steps)


@with_and_without_clip
@every_spacing
@every_prediction
@every_count
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim(eta, steps, prediction, spacing, clip):
    # Of these only linspace has steps that do not lead to the next level visited.
    model = model_of(prediction, clip_sample=clip)
    sampler = DDIM(steps, eta, spacing=spacing, even_stride=True)
    compare(model, sampler, steps, eta=eta)


@every_spacing
@every_prediction
@every_count
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver(order, steps, prediction, spacing):
    compare(model_of(prediction), DPMSolver(steps, order, spacing=spacing, **PEER), steps)


@every_spacing
@every_prediction
@every_count
@pytest.mark.parametrize("order", [1, 2])
def test_stochastic_dpm_solver(order, steps, prediction, spacing):
    sampler = DPMSolver(steps, order, stochastic=True, spacing=spacing, **PEER)
    compare(model_of(prediction), sampler, steps)


@every_count
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"solver_type": "heun"},
        {"noise_levels": "karras"},
        {"noise_levels": "log_snr"},
        {"lower_orders_below": 0},
        {"set_alpha_to_one": False},
        {"set_alpha_to_one": False, "euler_at_final": True},
        {"set_alpha_to_one": False, "lower_orders_below": 0},
        {"spacing": "leading", "steps_offset": 1},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_options_of_dpm_solver(options, order, steps):
    options = PEER | {"spacing": "linspace"} | options
    for stochastic in (False, True)[: 3 - order + 1]:
        compare(model_of(), DPMSolver(steps, order, stochastic=stochastic, **options), steps)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 14, 15, 16])
def test_walks_about_as_long_as_those_that_end_with_lower_orders(steps, order, lower):
    """diffusers lowers the order at the end of walks of fewer than 15 steps."""
    options = PEER | {"spacing": "linspace", "set_alpha_to_one": False}
    options["lower_orders_below"] = 15 if lower else 0
    for stochastic in (False, True)[: 4 - order]:
        compare(model_of(), DPMSolver(steps, order, stochastic=stochastic, **options), steps)


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("noise_levels", ["karras", "log_snr"])
def test_a_last_step_of_no_length(noise_levels, order, steps):
    """These levels end at level 1: going there from there changes nothing."""
    sampler = DPMSolver(steps, order, noise_levels=noise_levels, set_alpha_to_one=False, **PEER)
    if (order, steps) != (3, 50):  # where the peer divides zero by zero
        compare(model_of(), sampler, steps)
    model = model_of()
    *_, before, last = sampler.iterate(model, model.start(2))
    torch.testing.assert_close(last.x, before.x)


@pytest.mark.parametrize("betas", [(1e-4, 0.02), (1e-3, 0.012), (1e-3, 0.03)])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("noise_levels", ["karras", "log_snr"])
def test_a_last_step_of_no_length_but_for_rounding(noise_levels, order, betas):
    """Where the step would lead up by a rounding error, its noise had a negative variance."""
    options = {"noise_levels": noise_levels, "set_alpha_to_one": False, "stochastic": True}
    for T in (100, 1000):
        model = model_of(schedule=NoiseSchedule.linear(T, *betas))
        walk = DPMSolver(5, order, **options).iterate(model, model.start(2))
        *_, before, last = walk
        torch.testing.assert_close(last.x, before.x)


@every_spacing
@every_prediction
@every_count
@pytest.mark.parametrize("noise_levels", ["spaced", "karras"])
def test_euler(noise_levels, steps, prediction, spacing):
    sampler = Euler(steps, noise_levels=noise_levels, spacing=spacing)
    compare(model_of(prediction), sampler, steps)


@every_spacing
@every_prediction
@every_count
@pytest.mark.parametrize("noise_levels", ["spaced", "karras"])
def test_heun(noise_levels, steps, prediction, spacing):
    sampler = Heun(steps, noise_levels=noise_levels, spacing=spacing)
    compare(model_of(prediction), sampler, steps)


@every_spacing
@every_count
def test_heun_with_clip_sample(steps, spacing):
    compare(model_of(clip_sample=True), Heun(steps, spacing=spacing), steps)


@every_count
@pytest.mark.parametrize("kind", [Euler, Heun])
def test_even_log_snr(kind, steps):
    compare(model_of("v_prediction"), kind(steps, noise_levels="log_snr"), steps)


@every_spacing
@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize(
    "sampler",
    [
        DDPM(10),
        DDIM(10, eta=0.5, even_stride=True),
        Euler(10, noise_levels="spaced"),
        Euler(10, noise_levels="karras"),
        DPMSolver(10, 3, **PEER),
        DPMSolver(10, 2, stochastic=True),
        DPMSolver(10, 2, noise_levels="karras"),
    ],
    ids=kind_of,
)
def test_zero_terminal_snr(sampler, prediction, spacing):
    schedule = NoiseSchedule.scaled_linear(1000).with_zero_terminal_snr()
    sampler = replace(sampler, spacing=spacing)
    compare(model_of(prediction, schedule), sampler, 10, eta=0.5)


@pytest.mark.parametrize("threshold", [DynamicThreshold(0.9, 1.5), DynamicThreshold(0.6, 5.0)])
@pytest.mark.parametrize(
    "sampler", [DDPM(10), DDIM(10, eta=1.0), DPMSolver(10, 3, **PEER)], ids=kind_of
)
def test_dynamic_thresholding(sampler, threshold):
    compare(model_of(thresholding=threshold), sampler, 10, eta=1.0)


@pytest.mark.parametrize("sampler", [DDPM(10), DDIM(10, eta=1.0), Heun(10)], ids=kind_of)
def test_clip_sample_range(sampler):
    compare(model_of(thresholding=StaticThreshold(0.5)), sampler, 10, eta=1.0)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 7, 30, 999])
@pytest.mark.parametrize("kind", [DDPM, DDIM, DPMSolver, Euler, Heun])
def test_timesteps(kind, steps, spacing):
    """A spacing that is named is followed, by those whose own levels are others too."""
    sampler = kind(steps, spacing=spacing)
    model = model_of()
    theirs = scheduler_of(model, sampler, steps).timesteps.tolist()
    assert [np.float32(time) for time in sampler.timesteps(model.schedule)] == theirs
