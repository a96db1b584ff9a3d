"""`EDMEulerScheduler`: the chain and the walk of diffusers, read and written."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch
from torch import Tensor

import nelbo
from nelbo import NelboError
from nelbo.samplers import Euler, Heun
from tests.formats import tiny

SHAPE = (3, 8, 8)
pytestmark = pytest.mark.filterwarnings("ignore:.*pixel levels")


def peer(path, kind=diffusers.EDMEulerScheduler, **fields) -> diffusers.DDPMPipeline:
    pipeline = diffusers.DDPMPipeline(tiny.pixel_unet(), kind(**fields))
    pipeline.save_pretrained(path)
    return pipeline


def walk_of_diffusers(pipeline: diffusers.DDPMPipeline, noise: Tensor, steps: int) -> Tensor:
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        with torch.no_grad():
            output = pipeline.unet(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(output, t, x).prev_sample
    return x


@pytest.mark.parametrize(
    "fields",
    [{}, {"sigma_schedule": "exponential", "prediction_type": "v_prediction", "sigma_data": 0.7}],
    ids=["karras", "exponential"],
)
def test_euler_walks_as_diffusers_and_is_saved(fields, tmp_path):
    pipeline, steps = peer(tmp_path, **fields), 6
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    x = walk_of_diffusers(pipeline, noise, steps)
    model, sampler = nelbo.load(tmp_path), nelbo.load_sampler(tmp_path, steps)
    found = model.sample(2, sampler, x_T=noise)
    torch.testing.assert_close(found, x, rtol=0, atol=2e-5)
    nelbo.save(model, tmp_path / "saved", sampler=sampler)
    again = nelbo.load(tmp_path / "saved")
    assert torch.equal(again.sample(2, sampler, x_T=noise), found)
    assert nelbo.load_sampler(tmp_path / "saved", steps) == sampler
    with pytest.raises(NelboError, match="walks by Euler"):
        nelbo.save(model, tmp_path / "other", sampler=Heun(4))
    other = nelbo.Diffusion(
        model.network,
        nelbo.NoiseSchedule.linear(20),
        prediction=model.parameterization,
        shape=SHAPE,
    )
    nelbo.save(other, tmp_path / "other")  # its levels are in nelbo.json
    levels = nelbo.load(tmp_path / "other").schedule
    torch.testing.assert_close(levels.betas, other.schedule.betas, rtol=1e-9, atol=0)


def test_one_step_leads_from_the_last_level(tmp_path):
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    expected = walk_of_diffusers(peer(tmp_path), noise, 1)
    found = nelbo.load(tmp_path).sample(2, nelbo.load_sampler(tmp_path, 1), x_T=noise)
    # In float32 the peer subtracts what is 80 times as large.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_the_bound_is_finite_and_the_chain_that_of_its_levels(tmp_path):
    peer(tmp_path, num_train_timesteps=50)
    model = nelbo.load(tmp_path)
    expected = nelbo.NoiseSchedule.variance_exploding(50)
    torch.testing.assert_close(model.schedule.sigmas, expected.sigmas)
    x_0 = model.data.to_network(torch.randint(0, 256, (2, *SHAPE)))
    with torch.no_grad():
        assert model.elbo(x_0).elbo.isfinite().all()


def test_another_solver_is_walked_by_euler(tmp_path):
    peer(tmp_path, diffusers.EDMDPMSolverMultistepScheduler)
    with pytest.warns(UserWarning, match="no EDMDPMSolverMultistepScheduler"):
        assert isinstance(nelbo.load_sampler(tmp_path), Euler)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("sigma_data", -1.0, "sigma_data is -1.0, expected a positive number"),
        ("sigma_max", 0.001, "0 < sigma_min < sigma_max"),
        ("sigma_min", "low", "sigma_min is 'low', expected a number"),
        ("sigma_schedule", "cosine", "expected one of karras, exponential"),
    ],
)
def test_mistakes(field, value, match, tmp_path):
    peer(tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(NelboError, match=match) as error:
        nelbo.load(tmp_path)
    assert str(error.value).count(str(file)) == 1
