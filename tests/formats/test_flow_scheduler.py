"""`FlowMatchEulerDiscreteScheduler`: the chain and the walk of diffusers, read and written."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch
from torch import Tensor

import nelbo
from nelbo import Continuous, Diffusion, NelboError, NoiseSchedule, Pixels
from nelbo.diffusion.prediction import Velocity
from nelbo.formats.flow_times import IMAGE_TOKENS
from nelbo.formats.scheduler import SchedulerConfig
from nelbo.samplers import DDIM, DDPM, DPMSolver, Euler, Heun
from tests.formats import tiny

SHAPE = (3, 8, 8)


def peer_pipeline(path, **scheduler) -> diffusers.DDPMPipeline:
    """A tiny pipeline of pixels whose network is a velocity, as diffusers saves it."""
    pipeline = diffusers.DDPMPipeline(
        tiny.pixel_unet(), diffusers.FlowMatchEulerDiscreteScheduler(**scheduler)
    )
    pipeline.save_pretrained(path)
    return pipeline


def walk_of_diffusers(pipeline: diffusers.DDPMPipeline, x: Tensor, steps: int) -> Tensor:
    pipeline.scheduler.set_timesteps(steps)
    for t in pipeline.scheduler.timesteps:
        with torch.no_grad():
            output = pipeline.unet(x, t).sample
        x = pipeline.scheduler.step(output, t, x).prev_sample
    return x


@pytest.mark.filterwarnings("ignore:.*pixel levels")
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_euler_walks_as_diffusers(shift, steps, tmp_path):
    pipeline = peer_pipeline(tmp_path, shift=shift)
    x_T = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    expected = walk_of_diffusers(pipeline, x_T, steps)
    model, sampler = nelbo.load(tmp_path), nelbo.load_sampler(tmp_path, steps)
    assert sampler == Euler(steps, noise_levels="flow", shift=shift)
    torch.testing.assert_close(model.sample(2, sampler, x_T=x_T), expected, rtol=0, atol=1e-5)
    times = pipeline.scheduler.timesteps / 1000
    found = [level.noise_scale for level in sampler.grid(model.schedule)]
    length = torch.hypot(times, 1 - times)
    torch.testing.assert_close(torch.tensor(found), times / length, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*pixel levels")
def test_the_chain_is_that_of_the_training_times(tmp_path):
    pipeline = peer_pipeline(tmp_path, shift=2.5, num_train_timesteps=50)
    model = nelbo.load(tmp_path)
    times = pipeline.scheduler.sigmas.flip(0).double()
    torch.testing.assert_close(model.schedule.flow_times[1:], times, rtol=1e-6, atol=1e-6)
    # diffusers' own noising, at each of its times
    x_0, noise = torch.randn(2, 50, *SHAPE).unbind(0)
    noisy = pipeline.scheduler.scale_noise(x_0, pipeline.scheduler.timesteps.flip(0), noise)
    t = torch.arange(1, 51)
    length = torch.hypot(times, 1 - times).float().view(-1, 1, 1, 1)
    torch.testing.assert_close(model.diffuse(x_0, noise, t), noisy / length, atol=1e-5, rtol=0)
    with torch.no_grad():
        expected = pipeline.unet(noisy[9:10], pipeline.scheduler.timesteps.flip(0)[9]).sample
        found = model.predict(model.diffuse(x_0, noise, t)[9:10], 10).output
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:.*pixel levels")
@pytest.mark.parametrize("kind", ["FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"])
def test_another_solver_of_flow_matching_has_the_same_chain(kind, tmp_path):
    scheduler = getattr(diffusers, kind)(num_train_timesteps=50, shift=2.5)
    diffusers.DDPMPipeline(tiny.pixel_unet(), scheduler).save_pretrained(tmp_path)
    model = nelbo.load(tmp_path)
    times = scheduler.sigmas.flip(0).double()
    torch.testing.assert_close(model.schedule.flow_times[1:], times, rtol=1e-6, atol=1e-6)
    with pytest.warns(UserWarning, match=f"no {kind}, so Euler's method walks the same chain"):
        sampler = nelbo.load_sampler(tmp_path, 4)
    assert sampler == Euler(4, noise_levels="flow", shift=2.5)


def own_model(schedule: NoiseSchedule, time_scale: float, variance: str) -> Diffusion:
    channels = 6 if variance == "learned_range" else 3
    network = tiny.randomise(
        nelbo.UNet(
            sample_size=8,
            out_channels=channels,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
        )
    )
    kind = Velocity(time_scale)
    options = {"data": Pixels(17), "shape": SHAPE, "clip_sample": True}
    return Diffusion(network, schedule, prediction=kind, variance=variance, **options)


@pytest.mark.parametrize(
    ("schedule", "time_scale", "variance", "notes"),
    [
        (NoiseSchedule.flow_matching(30, 2.0), 30, "fixed_large", set()),
        (NoiseSchedule.geometric(20, 0.05), 20, "learned_range", {"betas"}),
        (NoiseSchedule.flow_matching(30, 2.0, first_noise=0.04), 30, "fixed_large", {"betas"}),
        (NoiseSchedule.flow_matching(20), 1.0, "fixed_small", {"time_scale"}),
    ],
)
def test_a_model_is_read_as_it_was_written(schedule, time_scale, variance, notes, tmp_path):
    model = own_model(schedule, time_scale, variance)
    nelbo.save(model, tmp_path)
    found = nelbo.load(tmp_path)
    written = json.loads((tmp_path / "nelbo.json").read_text())
    assert written.keys() & {"betas", "time_scale"} == notes
    x_0 = model.data.to_network(torch.randint(0, 17, (2, *SHAPE)))
    seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
    expected, read = (
        m.elbo(x_0, levels=4, generator=g).elbo for m, g in zip((model, found), seeds, strict=True)
    )
    torch.testing.assert_close(read, expected, rtol=1e-6, atol=1e-4)
    assert str(found.parameterization) == str(model.parameterization)
    torch.testing.assert_close(found.schedule.betas, model.schedule.betas, rtol=1e-12, atol=0)
    for sampler in (DDPM(5), DDIM(5), DPMSolver(5), Heun(5), nelbo.load_sampler(tmp_path, 5)):
        assert found.sample(1, sampler).isfinite().all()


@pytest.mark.parametrize(
    "schedule",
    [
        NoiseSchedule.flow_matching(1000, 3.0),
        NoiseSchedule.flow_matching(60, 3.0),
        NoiseSchedule.geometric(40, 0.05),
        NoiseSchedule.flow_matching(60, 3.0, first_noise=0.04),
    ],
    ids=["1000 levels", "60 levels", "levels of another chain", "another first level"],
)
def test_diffusers_draws_from_what_nelbo_writes(schedule, tmp_path):
    """Whatever the number of levels, diffusers calls a network with the times it was trained at."""
    model = own_model(schedule, 1000, "fixed_large")
    nelbo.save(model, tmp_path / "first")
    sampler = nelbo.load_sampler(tmp_path / "first", 7)
    shift = (schedule.config or {}).get("shift", 1.0)
    assert (nelbo.load(tmp_path / "first").schedule.config or {}).get("shift", 1.0) == shift
    nelbo.save(nelbo.load(tmp_path / "first"), tmp_path / "again", sampler=sampler)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "again")
    x_T = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    expected = walk_of_diffusers(pipeline, x_T, 7)
    free = nelbo.load(tmp_path / "again").replace()
    free.threshold = None  # which diffusers' scheduler has not
    torch.testing.assert_close(free.schedule.betas, schedule.betas, rtol=1e-9, atol=0)
    found = free.sample(1, nelbo.load_sampler(tmp_path / "again", 7), x_T=x_T)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*pixel levels")
@pytest.mark.parametrize(
    "spacing", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "shift_terminal"]
)
def test_other_spacings_of_the_times_are_those_of_diffusers(spacing, tmp_path):
    given, steps = 0.1 if spacing == "shift_terminal" else True, 9
    pipeline = peer_pipeline(tmp_path, shift=3.0, **{spacing: given})
    x_T = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    expected = walk_of_diffusers(pipeline, x_T, steps)
    model, sampler = nelbo.load(tmp_path), nelbo.load_sampler(tmp_path, steps)
    found = [level.noise_scale for level in sampler.grid(model.schedule)]
    times = pipeline.scheduler.timesteps / 1000
    torch.testing.assert_close(torch.tensor(found), times, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.sample(1, sampler, x_T=x_T), expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*pixel levels")
def test_one_step_has_no_terminal_shift(tmp_path):
    peer_pipeline(tmp_path, shift=3.0, shift_terminal=0.1)
    with pytest.raises(NelboError, match=r"scheduler_config\.json: shift_terminal is 0\.1"):
        nelbo.load_sampler(tmp_path, 1)


@pytest.mark.parametrize(
    "sampler",
    [Heun(80), DPMSolver(80, noise_levels="flow"), DPMSolver(80, 3, noise_levels="flow")],
    ids=str,
)
def test_samplers_start_where_there_is_no_signal(sampler):
    """The flow of N(m, 1) moves each value by m as the noise falls."""
    mean, shape = 0.3, (1, 2, 2)

    def velocity(x: Tensor, time: Tensor, condition=None) -> Tensor:
        s = time.double().view(-1, 1, 1, 1)
        power = (1 - s).square() + s.square()
        noise = s * (x - (1 - s) * mean) / power
        data = mean + (1 - s) * (x - (1 - s) * mean) / power
        return noise - data

    schedule = NoiseSchedule.flow_matching(1000)
    options = {"prediction": "velocity", "data": Continuous(), "shape": shape}
    model = Diffusion(velocity, schedule, **options)
    x_T = torch.randn(8, *shape, dtype=torch.float64)
    assert sampler.start_level(schedule).signal_scale == 0
    found = model.sample(8, sampler, x_T=x_T)
    torch.testing.assert_close(found, mean + x_T, rtol=0, atol=2e-2)


def test_heun_calls_the_network_as_its_timesteps_state():
    times: list[float] = []

    def velocity(x: Tensor, time: Tensor, condition=None) -> Tensor:
        times.append(float(time[0]))
        return x

    schedule = NoiseSchedule.flow_matching(100)
    options = {"prediction": Velocity(100), "data": Continuous(), "shape": (1, 2, 2)}
    Diffusion(velocity, schedule, **options).sample(1, Heun(4))
    # Level t of 100 has the network time t − 1 in a chain, and t in flow matching.
    stated = [schedule.at_level(t + 1).network_time for t in Heun(4).timesteps(schedule)]
    assert len(stated) == len(times) == 6
    assert times[0] == 100.0


@pytest.mark.filterwarnings("ignore:.*pixel levels")
def test_mistakes(tmp_path):
    peer_pipeline(tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    plain = json.loads(file.read_text())
    for field, value, match in (
        (
            "use_dynamic_shifting",
            True,
            "use_dynamic_shifting is True, expected false, for the shift",
        ),
        ("shift", 0.0, "shift of flow matching must be positive"),
        ("shift", "big", "shift is 'big', expected a number"),
    ):
        file.write_text(json.dumps(plain | {field: value}))
        with pytest.raises(NelboError, match=match):
            nelbo.load(tmp_path)
    both = {"use_karras_sigmas": True, "use_beta_sigmas": True}
    file.write_text(json.dumps(plain | both))
    with pytest.raises(NelboError, match="expected false beside use_karras_sigmas=True"):
        nelbo.load_sampler(tmp_path)
    file.write_text(json.dumps(plain | {"stochastic_sampling": True}))
    with pytest.warns(UserWarning, match="no sampler with stochastic_sampling=True"):
        nelbo.load_sampler(tmp_path)
    dynamic = plain | {"use_dynamic_shifting": True}
    for own, match in (
        ({"time_shift_type": ["linear"]}, r"time_shift_type is \['linear'\], expected one of"),
        ({"max_image_seq_len": 256}, "expected another number than base_image_seq_len"),
        ({"max_shift": 1e6}, "max_shift is 1000000.0, expected less, for log k is"),
        ({"base_shift": None, "max_shift": "x"}, "max_shift is 'x', expected a number"),
    ):
        file.write_text(json.dumps(dynamic | own))
        with pytest.raises(NelboError, match=match):
            _ = SchedulerConfig.read(file, {IMAGE_TOKENS: 2000}).schedule
    file.write_text(json.dumps(plain))
    notes = {"data": {"kind": "pixels", "levels": 256}}
    for own, match in (
        ({"betas": [0.1, 2.0]}, "betas: beta at level 2 is 2.0"),
        ({"chain_levels": 0}, "chain_levels is 0, expected an integer of at least 1"),
        ({"time_scale": -1}, "time_scale is -1, expected a positive number"),
    ):
        (tmp_path / "nelbo.json").write_text(json.dumps(notes | own))
        with pytest.raises(NelboError, match=match):
            nelbo.load(tmp_path)
    model = own_model(NoiseSchedule.flow_matching(30), 30, "fixed_large")
    with pytest.raises(NelboError, match="by Euler's method through times of its own alone"):
        nelbo.save(model, tmp_path / "new", sampler=DDIM(10))
