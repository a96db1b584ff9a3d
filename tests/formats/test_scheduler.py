"""Scheduler configs that diffusers wrote, read as chains and samplers, and the way back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import diffusers
import pytest
import torch

import nelbo
from nelbo import Diffusion, NelboError, NoiseSchedule
from nelbo.diffusion import DynamicThreshold, StaticThreshold
from nelbo.formats.scheduler import SchedulerConfig, scheduler_config
from nelbo.samplers import DDIM, DDPM, DPMSolver, Euler, Heun
from tests.diffusion.test_model import SHAPE, Network

# Of a solver of the peer.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SOLVERS = (
    *("PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete"),
    *("KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep"),
    *("DPMSolverMultistepInverse", "DEISMultistep", "UniPCMultistep", "SASolver", "LCM", "TCD"),
    *("DDIMParallel", "DDPMParallel", "DDIMInverse"),
)
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
        "thresholding": None,
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
    assert SchedulerConfig.read(write(tmp_path, diffusers.DDPMScheduler())).sampler() == DDPM(
        spacing="leading"
    )
    assert SchedulerConfig.read(write(tmp_path, diffusers.DDIMScheduler())).sampler() == DDIM(
        50, spacing="leading", even_stride=True
    )
    short = write(tmp_path, diffusers.DDIMScheduler(20))
    assert SchedulerConfig.read(short).sampler() == DDIM(20, spacing="leading", even_stride=True)
    assert SchedulerConfig.read(short).sampler(0).steps == 0  # for the sampler to refuse


@pytest.mark.parametrize(
    ("kind", "spacing"),
    [
        ("PNDM", "leading"),
        ("LMSDiscrete", "linspace"),
        ("EulerAncestralDiscrete", "linspace"),
        ("UniPCMultistep", "linspace"),
        ("DEISMultistep", "linspace"),
        ("KDPM2Discrete", "linspace"),
        ("LCM", "leading"),
    ],
)
def test_other_solvers_fall_back_on_ddim_with_a_note(tmp_path, kind, spacing):
    scheduler = getattr(diffusers, f"{kind}Scheduler")(steps_offset=1)
    config = SchedulerConfig.read(write(tmp_path, scheduler))
    with pytest.warns(UserWarning, match=f"nelbo has no {kind}Scheduler, so DDIM walks"):
        sampler = config.sampler(10)
    walked = {"spacing": spacing, "steps_offset": 1, "set_alpha_to_one": kind != "PNDM"}
    assert sampler == DDIM(10, even_stride=True, **walked)
    assert config.chain_options["clip_sample"] is False


def test_a_solver_is_substituted_only_where_it_is_used(tmp_path, recwarn):
    config = SchedulerConfig.read(write(tmp_path, diffusers.UniPCMultistepScheduler()))
    _ = config.schedule, config.chain_options
    assert config.sampler(10, DPMSolver) == DPMSolver(10)
    assert config.sampler(10, DDPM) == DDPM(10)
    assert not recwarn.list


@pytest.mark.parametrize(("kind", "mine"), [("DDIMParallel", DDIM), ("DDPMParallel", DDPM)])
def test_parallel_variants_walk_as_what_they_are(tmp_path, recwarn, kind, mine):
    config = SchedulerConfig.read(write(tmp_path, getattr(diffusers, f"{kind}Scheduler")()))
    quirks = {"even_stride": True} if mine is DDIM else {}
    assert config.sampler(10) == mine(10, spacing="leading", **quirks)
    assert not recwarn.list


# Written by diffusers and stripped of a field at a time, each has what diffusers takes for it.
@pytest.mark.parametrize("kind", ["DDPM", "DDIM", *SOLVERS])
def test_a_field_that_the_file_lacks_has_the_default_of_the_class(tmp_path, kind):
    peer = getattr(diffusers, f"{kind}Scheduler")
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": peer.__name__}))
    bare = peer.from_pretrained(tmp_path)
    config = SchedulerConfig.read(file)
    torch.testing.assert_close(
        config.schedule.alphas_cumprod[1:].float(), bare.alphas_cumprod, rtol=1e-4, atol=1e-7
    )
    for field, value in bare.config.items():
        if value is not None and field in config.fields and field not in SOLVER_OPTIONS:
            assert config.fields[field] == value, field
    options = config.chain_options
    assert options["clip_sample"] == bare.config.get("clip_sample", False)
    assert (options["thresholding"] is not None) == bare.config.get("thresholding", False)
    assert options["prediction"] == bare.config.get("prediction_type", "epsilon")


# What these stand for differs from class to class, and matters for the classes that nelbo has.
SOLVER_OPTIONS = {"solver_type", "algorithm_type", "lower_order_final", "variance_type"}


@pytest.mark.parametrize(("kind", "mine"), [("PNDM", False), ("DDIM", True), ("LCM", True)])
def test_the_default_of_where_a_walk_ends(tmp_path, kind, mine):
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": f"{kind}Scheduler"}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert SchedulerConfig.read(file).sampler(10).set_alpha_to_one is mine


def test_fields_of_other_classes_have_no_effect(tmp_path):
    """As diffusers reads a config of one class with another."""
    euler = diffusers.EulerDiscreteScheduler(timestep_type="discrete", use_karras_sigmas=True)
    euler.save_pretrained(tmp_path)
    file = tmp_path / "scheduler_config.json"
    written = json.loads(file.read_text())
    file.write_text(
        json.dumps(
            written
            | {"clip_sample": True, "thresholding": True, "timestep_type": "continuous"}
            | {"rescale_betas_zero_snr": True}
        )
    )
    for name in ("PNDMScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"):
        peer = getattr(diffusers, name).from_pretrained(tmp_path)
        config = SchedulerConfig.read(file, class_name=name)
        assert config.chain_options["clip_sample"] is (name == "HeunDiscreteScheduler")
        assert config.chain_options["thresholding"] is None
        torch.testing.assert_close(
            config.schedule.alphas_cumprod[1:].float(), peer.alphas_cumprod, rtol=1e-4, atol=1e-7
        )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("_class_name", "AmusedScheduler", "_class_name is 'AmusedScheduler"),
        ("rescale_betas_zero_snr", True, "prediction_type is 'epsilon', expected v_prediction"),
        ("rescale_betas_zero_snr", 1, "rescale_betas_zero_snr is 1"),
        ("thresholding", "yes", "thresholding is 'yes'"),
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
        ("clip_sample_range", -2.0, "clip_sample_range: a threshold clips to a positive range"),
        ("timestep_spacing", "even", "timestep_spacing is 'even'"),
        ("steps_offset", -1, "steps_offset is -1"),
        ("set_alpha_to_one", "no", "set_alpha_to_one is 'no'"),
    ],
)
def test_mistakes_name_file_and_field(tmp_path, field, value, message):
    file = write(tmp_path, diffusers.DDIMScheduler(), **{field: value})
    with pytest.raises(NelboError) as error:
        read_all(file)
    assert str(error.value).count(str(file)) == 1
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("solver_order", "two", "solver_order is 'two'"),
        ("algorithm_type", 2, "algorithm_type is 2"),
        ("use_flow_sigmas", True, "prediction_type='epsilon' with use_flow_sigmas=True is not"),
        ("use_karras_sigmas", "yes", "use_karras_sigmas is 'yes'"),
        ("thresholding", 2, "thresholding is 2"),
        ("sample_max_value", 0.5, None),
    ],
)
def test_mistakes_of_a_solver_name_file_and_field(tmp_path, field, value, message):
    scheduler = diffusers.DPMSolverMultistepScheduler(thresholding=True)
    file = write(tmp_path, scheduler, **{field: value})
    with pytest.raises(NelboError) as error:
        read_all(file)
    assert str(file) in str(error.value)
    assert (message or "at least 1, got 0.5") in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("solver_order", 4, "solver_order is 4"),
        ("algorithm_type", "dpmsolver", "algorithm_type is 'dpmsolver'"),
        ("solver_type", "bh3", "solver_type is 'bh3'"),
        ("final_sigmas_type", "one", "final_sigmas_type is 'one'"),
        ("lambda_min_clipped", -5.1, "lambda_min_clipped is -5.1"),
        ("use_beta_sigmas", True, "use_beta_sigmas is True"),
        ("use_exponential_sigmas", True, "use_exponential_sigmas is True"),
    ],
)
def test_an_option_without_a_counterpart_leaves_the_chain_alone(tmp_path, field, value, message):
    file = write(tmp_path, diffusers.DPMSolverMultistepScheduler(), **{field: value})
    config = SchedulerConfig.read(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ = config.schedule, config.chain_options
        assert config.sampler(9, Heun) == Heun(9)
    with pytest.warns(UserWarning, match=message) as caught:
        assert config.sampler(9) == DDIM(9, spacing="linspace", even_stride=True)
    assert str(file) in str(caught[0].message)
    assert "so DDIM walks the same chain" in str(caught[0].message)


def test_options_that_diffusers_takes_for_those_of_dpm_solver(tmp_path, recwarn):
    file = write(tmp_path, diffusers.UniPCMultistepScheduler())
    peer = diffusers.DPMSolverMultistepScheduler.from_pretrained(tmp_path)
    sampler = SchedulerConfig.read(file, class_name=type(peer).__name__).sampler(20)
    assert isinstance(sampler, DPMSolver)
    assert sampler.solver_type == peer.config.solver_type == "midpoint"
    assert not sampler.stochastic
    assert not [w for w in recwarn if "DDIM" in str(w.message)]


def test_a_field_that_changes_the_chain_of_its_class_is_refused(tmp_path):
    file = write(tmp_path, diffusers.EulerDiscreteScheduler(timestep_type="continuous"))
    with pytest.raises(NelboError, match="timestep_type='continuous' is not supported"):
        SchedulerConfig.read(file)


# What diffusers does in walks of fewer steps.
PEER = {"lower_orders_below": 15}
SAMPLERS = [
    DDPM(spacing="trailing"),
    DDIM(50, steps_offset=1, even_stride=True),
    Euler(20, noise_levels="log_snr", spacing="trailing"),
    Heun(20, noise_levels="karras", spacing="linspace"),
    Heun(20, noise_levels="spaced", spacing="leading", steps_offset=1),
    DPMSolver(
        20, 3, spacing="linspace", noise_levels="karras", halve_second_derivative=True, **PEER
    ),
    DPMSolver(20, 2, spacing="leading", noise_levels="log_snr", solver_type="heun", **PEER),
    DPMSolver(20, 2, spacing="trailing", noise_levels="spaced"),
    DPMSolver(
        20,
        1,
        stochastic=True,
        spacing="linspace",
        noise_levels="spaced",
        set_alpha_to_one=False,
        euler_at_final=True,
        **PEER,
    ),
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_written_is_read_back_by_both(tmp_path, sampler):
    model = Diffusion(
        Network(), NoiseSchedule.scaled_linear(100), prediction="v_prediction", shape=SHAPE
    )
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(scheduler_config(model, sampler)))
    config = SchedulerConfig.read(file)
    assert config.sampler(sampler.steps) == sampler
    assert torch.equal(config.schedule.betas, model.schedule.betas)
    class_name = json.loads(file.read_text())["_class_name"]
    peer = getattr(diffusers, class_name).from_pretrained(tmp_path)
    peer.set_timesteps(sampler.steps or 100)
    times = torch.tensor(sampler.timesteps(model.schedule))
    torch.testing.assert_close(times, peer.timesteps, rtol=0, atol=1e-2)
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
    assert nelbo.load_sampler(tmp_path, 5) == DDIM(5, set_alpha_to_one=False, even_stride=True)
    assert nelbo.load(tmp_path).variance == "fixed_large"
    model = Diffusion(
        network, model.schedule, shape=(1, 8, 8), variance="fixed_large", clip_sample=True
    )
    for sampler in (
        DPMSolver(10, 2, spacing="linspace", noise_levels="spaced", **PEER),
        Euler(10, noise_levels="karras", spacing="linspace"),
        Heun(10, noise_levels="karras", spacing="linspace"),
    ):
        nelbo.save(model, tmp_path, sampler=sampler)
        assert nelbo.load_sampler(tmp_path, 10) == sampler
        # which the first two of these have no field for
        assert nelbo.load(tmp_path).threshold == StaticThreshold()
        assert nelbo.load(tmp_path).variance == "fixed_large"
    assert type(diffusers.DiffusionPipeline.from_pretrained(tmp_path)) is diffusers.DDIMPipeline


@pytest.mark.parametrize("threshold", [StaticThreshold(2.0), DynamicThreshold(0.9, 3.0)])
def test_thresholds_are_written_and_read_back(tmp_path, threshold):
    model = Diffusion(Network(), NoiseSchedule.linear(20), shape=SHAPE, thresholding=threshold)
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(scheduler_config(model, DDPM())))
    assert SchedulerConfig.read(file).chain_options["thresholding"] == threshold
    sampler = Heun() if isinstance(threshold, DynamicThreshold) else DPMSolver()
    with pytest.raises(NelboError, match=f"has no {type(threshold).__name__}"):
        scheduler_config(model, sampler)


@pytest.mark.parametrize("kind", ["DDPM", "DDIM", "EulerDiscrete", "DPMSolverMultistep"])
def test_zero_terminal_snr_is_read_and_written(tmp_path, kind):
    peer = getattr(diffusers, f"{kind}Scheduler")(
        100, rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    config = SchedulerConfig.read(write(tmp_path, peer))
    schedule = config.schedule
    torch.testing.assert_close(schedule.betas[1:].float(), peer.betas, rtol=1e-4, atol=1e-6)
    model = Diffusion(Network(), schedule, **config.chain_options)
    written = scheduler_config(model, config.sampler(10))
    assert written["rescale_betas_zero_snr"] is True
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(written))
    assert torch.equal(SchedulerConfig.read(file).schedule.betas, schedule.betas)
    trained = NoiseSchedule.from_betas(schedule.betas[1:])
    file.write_text(
        json.dumps(scheduler_config(Diffusion(Network(), trained, prediction="sample"), DDPM()))
    )
    assert torch.equal(SchedulerConfig.read(file).schedule.betas, schedule.betas)


def test_samplers_without_a_place_in_the_format():
    model = Diffusion(Network(), NoiseSchedule.linear(20), shape=SHAPE)
    with pytest.raises(NelboError, match="the levels of DDIM have no place"):
        scheduler_config(model, DDIM(levels=[1, 5]))
