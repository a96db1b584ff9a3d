"""Every sampler against diffusers on the same network and noise."""

from __future__ import annotations

import pytest

from nelbo import NelboError, NoiseSchedule
from nelbo.diffusion import DynamicThreshold, StaticThreshold
from nelbo.samplers import DDIM, DDPM, DPMSolver, Euler, Heun
from tests.diffusion.test_model import PREDICTIONS, VARIANCES
from tests.samplers.peers import SPACINGS, compare, model_of

# Of a solver of the peer.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)
every_spacing = pytest.mark.parametrize("spacing", SPACINGS)
every_count = pytest.mark.parametrize("steps", [10, 50])
with_and_without_clip = pytest.mark.parametrize("clip", [False, True])


@with_and_without_clip
@every_spacing
@every_prediction
@every_count
@pytest.mark.parametrize("variance", VARIANCES)
def test_ddpm(variance, steps, prediction, spacing, clip):
    model = model_of(prediction, variance=variance, clip_sample=clip)
    compare(model, DDPM(steps, spacing), steps)


@with_and_without_clip
@every_spacing
@every_prediction
@every_count
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim(eta, steps, prediction, spacing, clip):
    # Of these only linspace has steps that do not lead to the next level visited.
    model = model_of(prediction, clip_sample=clip)
    compare(model, DDIM(steps, eta, spacing=spacing), steps, eta=eta)


@every_spacing
@every_prediction
@every_count
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver(order, steps, prediction, spacing):
    compare(model_of(prediction), DPMSolver(steps, order, spacing=spacing), steps)


@every_spacing
@every_prediction
@every_count
@pytest.mark.parametrize("order", [1, 2])
def test_stochastic_dpm_solver(order, steps, prediction, spacing):
    sampler = DPMSolver(steps, order, stochastic=True, spacing=spacing)
    compare(model_of(prediction), sampler, steps)


@every_count
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"solver_type": "heun"},
        {"noise_levels": "karras"},
        {"noise_levels": "log_snr"},
        {"lower_order_final": False},
        {"set_alpha_to_one": False},
        {"set_alpha_to_one": False, "euler_at_final": True},
        {"set_alpha_to_one": False, "lower_order_final": False},
        {"spacing": "leading", "steps_offset": 1},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_options_of_dpm_solver(options, order, steps):
    for stochastic in (False, True)[: 3 - order + 1]:
        compare(model_of(), DPMSolver(steps, order, stochastic=stochastic, **options), steps)


@every_spacing
@every_prediction
@every_count
@pytest.mark.parametrize("noise_levels", ["spaced", "karras", "log_snr"])
def test_euler(noise_levels, steps, prediction, spacing):
    sampler = Euler(steps, noise_levels=noise_levels, spacing=spacing)
    compare(model_of(prediction), sampler, steps)


@with_and_without_clip
@every_spacing
@every_prediction
@every_count
@pytest.mark.parametrize("noise_levels", ["spaced", "karras", "log_snr"])
def test_heun(noise_levels, steps, prediction, spacing, clip):
    sampler = Heun(steps, noise_levels=noise_levels, spacing=spacing)
    compare(model_of(prediction, clip_sample=clip), sampler, steps)
