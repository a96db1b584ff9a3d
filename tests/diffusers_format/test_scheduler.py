"""Scheduler configs that diffusers wrote, read as chains and samplers, and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
import torch

import nelbo
from nelbo import Diffusion, NelboError, NoiseSchedule
from nelbo.diffusers_format.scheduler import SchedulerConfig, scheduler_config
from nelbo.samplers import DDIM, DDPM
from tests.diffusion.test_model import SHAPE, Network

# Of a solver of the peer.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SOLVERS = ("PNDM", "LMSDiscrete", "EulerDiscrete", "DPMSolverMultistep")
CHAINS = [
    {"beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.03},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": [0.01 + 0.002 * i for i in range(100)]},
]


def write(tmp_path: Path, scheduler, **changes) -> Path:
    scheduler.save_pretrained(tmp_path)
    file = tmp_path / "scheduler_config.json"
    if changes:
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return file


def read_all(file: Path) -> None:
    config = SchedulerConfig.read(file)
    _ = config.schedule, config.chain_options, config.sampler()


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("kind", ["DDPM", "DDIM", *SOLVERS])
def test_every_class_defines_the_same_chain(tmp_path, kind, chain):
    scheduler = getattr(diffusers, f"{kind}Scheduler")(num_train_timesteps=100, **chain)
    schedule = SchedulerConfig.read(write(tmp_path, scheduler)).schedule
    torch.testing.assert_close(
        schedule.alphas_cumprod[1:].float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7
    )


def test_sigmoid(tmp_path):
    scheduler = diffusers.DDPMScheduler(100, beta_schedule="sigmoid")
    schedule = SchedulerConfig.read(write(tmp_path, scheduler)).schedule
    torch.testing.assert_close(schedule.betas[1:].float(), scheduler.betas)


def test_options_of_the_chain(tmp_path):
    scheduler = diffusers.DDPMScheduler(
        prediction_type="v_prediction", variance_type="fixed_large_log", clip_sample=False
    )
    options = SchedulerConfig.read(write(tmp_path, scheduler)).chain_options
    assert options == {
        "prediction": "v_prediction",
        "variance": "fixed_large",
        "clip_sample": False,
    }


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [7, 50])
@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_sampler_visits_what_the_scheduler_does(tmp_path, kind, steps, spacing):
    scheduler = getattr(diffusers, f"{kind}Scheduler")(timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(steps)
    config = SchedulerConfig.read(write(tmp_path, scheduler))
    sampler = config.sampler(steps)
    assert type(sampler).__name__ == kind
    assert sampler.timesteps(config.schedule) == scheduler.timesteps.tolist()


def test_default_steps(tmp_path):
    assert SchedulerConfig.read(write(tmp_path, diffusers.DDPMScheduler())).sampler() == DDPM()
    assert SchedulerConfig.read(write(tmp_path, diffusers.DDIMScheduler())).sampler() == DDIM(50)
    short = write(tmp_path, diffusers.DDIMScheduler(20))
    assert SchedulerConfig.read(short).sampler() == DDIM(20)
    assert SchedulerConfig.read(short).sampler(0).steps == 0  # for the sampler to refuse


@pytest.mark.parametrize("kind", SOLVERS)
def test_other_solvers_fall_back_on_ddim_with_a_note(tmp_path, kind):
    scheduler = getattr(diffusers, f"{kind}Scheduler")(steps_offset=1)
    config = SchedulerConfig.read(write(tmp_path, scheduler))
    with pytest.warns(UserWarning, match=f"no {kind}Scheduler, so it samples with DDIM"):
        sampler = config.sampler(10)
    spacing = "leading" if kind == "PNDM" else "linspace"
    assert sampler == DDIM(10, spacing=spacing, steps_offset=1, set_alpha_to_one=kind != "PNDM")
    assert config.chain_options["clip_sample"] is False


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("_class_name", "UniPCMultistepScheduler", "_class_name is 'UniPC"),
        ("rescale_betas_zero_snr", True, "rescale_betas_zero_snr=True"),
        ("thresholding", True, "thresholding=True"),
        ("timestep_type", "continuous", "timestep_type='continuous'"),
        ("prediction_type", "flow_prediction", "prediction_type is 'flow_prediction'"),
        ("beta_schedule", "laplace", "beta_schedule is 'laplace'"),
        ("beta_schedule", ["linear"], "beta_schedule is"),
        ("beta_start", "low", "beta_start is 'low'"),
        ("beta_end", 1.5, "beta at level"),
        ("num_train_timesteps", 0, "num_train_timesteps is 0"),
        ("num_train_timesteps", "many", "num_train_timesteps is 'many'"),
        ("trained_betas", [0.1, 0.2], "trained_betas has 2 numbers, expected 1000"),
        ("variance_type", "learned", "variance_type is 'learned'"),
        ("clip_sample", "yes", "clip_sample is 'yes'"),
        ("clip_sample_range", 2.0, "clip_sample_range is 2.0"),
        ("timestep_spacing", "even", "timestep_spacing is 'even'"),
        ("steps_offset", -1, "steps_offset is -1"),
        ("set_alpha_to_one", "no", "set_alpha_to_one is 'no'"),
    ],
)
def test_mistakes_name_file_and_field(tmp_path, field, value, message):
    file = write(tmp_path, diffusers.DDIMScheduler(), **{field: value})
    with pytest.raises(NelboError) as error:
        read_all(file)
    assert str(file) in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("sampler", [DDPM(spacing="trailing"), DDIM(50, steps_offset=1)])
def test_what_is_written_is_read_back_by_both(tmp_path, sampler):
    model = Diffusion(
        Network(), NoiseSchedule.scaled_linear(100), prediction="v_prediction", shape=SHAPE
    )
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(scheduler_config(model, sampler)))
    config = SchedulerConfig.read(file)
    assert config.sampler(sampler.steps) == sampler
    assert torch.equal(config.schedule.betas, model.schedule.betas)
    peer = getattr(diffusers, f"{type(sampler).__name__}Scheduler").from_pretrained(tmp_path)
    peer.set_timesteps(sampler.steps or 100)
    assert sampler.timesteps(model.schedule) == peer.timesteps.tolist()
    assert peer.config.prediction_type == "v_prediction"


def test_sampler_of_a_pipeline(tmp_path):
    network = nelbo.UNet(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
    )
    model = Diffusion(network, NoiseSchedule.linear(20), shape=(1, 8, 8), variance="fixed_large")
    nelbo.save(model, tmp_path)
    assert nelbo.load_sampler(tmp_path, 5) == DDPM(5)
    nelbo.save(model, tmp_path, sampler=DDIM(10, set_alpha_to_one=False))
    assert nelbo.load_sampler(tmp_path, 5) == DDIM(5, set_alpha_to_one=False)
    assert nelbo.load(tmp_path).variance == "fixed_large"
    assert type(diffusers.DiffusionPipeline.from_pretrained(tmp_path)) is diffusers.DDIMPipeline
