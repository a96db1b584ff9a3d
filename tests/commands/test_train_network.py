"""nelbo train --network and --prediction: trained, resumed, sampled, and read by diffusers."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image

import nelbo
from nelbo import samplers
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.diffusion.prediction import RawDenoiser, Velocity
from nelbo.networks import DiT, TextDiT, UNet
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.network_size import choose_network
from nelbo.training.kinds.pixel.choices import timed_task, width_choices
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.transformer import usual_patch
from tests.commands.squares import COLOURS, draw_squares
from tests.faults.test_mistakes import mistake
from tests.formats import tiny

pytestmark = pytest.mark.usefixtures("unreported")

LITTLE = [
    *("--batch-size", "8", "--evaluate-images", "4", "--evaluate-levels", "2", "--levels", "12"),
    *("--sample-images", "4", "--sample-steps", "2", "--threads", "1", "--precision", "fp32"),
]
DIT = ["--network", "dit", "--widths", "16", "--blocks", "1"]


def train(data: str, out: Path, *options: str, steps: int = 2) -> Path:
    main(["train", data, "--out", str(out), "--steps", str(steps), *LITTLE, *options])
    return out


def scheduler(run: Path) -> dict:
    return json.loads((run / "scheduler" / "scheduler_config.json").read_text())


@pytest.fixture(scope="module")
def flow(tmp_path_factory) -> Path:
    options = [*DIT, "--prediction", "velocity", "--class-conditional", "--patch", "2"]
    return train("digits", tmp_path_factory.mktemp("networks") / "flow", *options)


def test_a_velocity_of_a_transformer(flow, capsys):
    assert scheduler(flow)["_class_name"] == "FlowMatchEulerDiscreteScheduler"
    assert not (flow / "unet").exists()
    model = nelbo.load(flow)
    assert isinstance(model.network, DiT)
    assert isinstance(model.parameterization, Velocity)
    assert (model.parameterization.time_scale, model.num_classes) == (1000, 10)
    part = diffusers.DiTTransformer2DModel.from_pretrained(flow, subfolder="transformer")
    x, time, label = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 9.0]), torch.tensor([0, 9])
    with torch.no_grad():
        expected = part.eval()(x, time, label).sample
        found = model.network(x, time, nelbo.Condition(label=label))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    capsys.readouterr()
    main(["evaluate", str(flow), "--error", "1", "--images", "4", "--json"])
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_every_sampler_walks_it(name, flow, tmp_path):
    out = tmp_path / "grid.png"
    sampler = ["--sampler", name, "--steps", "3", "--label", "3", "--guidance", "2"]
    main(["sample", str(flow), "-n", "2", *sampler, "--out", str(out)])
    assert Image.open(out).size


def test_it_goes_on_where_it_stopped(flow, tmp_path):
    run = Path(shutil.copytree(flow, tmp_path / "run"))
    main(["train", "--resume", "--out", str(run), "--steps", "3"])
    before, after = nelbo.load(flow), nelbo.load(run)
    assert RunDirectory(run).notes["trained"]["steps"] == 3
    assert after.identity() == before.identity()
    weights = before.network.state_dict()
    moved = [not torch.equal(weights[n], value) for n, value in after.network.state_dict().items()]
    assert any(moved)


def test_a_denoiser_of_a_unet(tmp_path):
    options = ["--widths", "8", "--prediction", "denoiser", "--schedule", "variance_exploding"]
    run = train("digits", tmp_path / "run", *options, "--variance", "fixed_large")
    model = nelbo.load(run)
    assert isinstance(model.network, UNet)
    assert isinstance(model.parameterization, RawDenoiser)
    images = load_data("digits", "train").images
    spread = (images.float() / 8 - 1).std()
    assert model.parameterization.sigma_data == pytest.approx(float(spread), rel=1e-2)
    peer = diffusers.EDMEulerScheduler.from_pretrained(run, subfolder="scheduler")
    peer.set_timesteps(5)
    x_T = torch.randn(2, 1, 8, 8)
    x = x_T * peer.init_noise_sigma
    for t in peer.timesteps:
        with torch.no_grad():
            output = model.network(peer.scale_model_input(x, t), t, None)
        x = peer.step(output, t, x).prev_sample
    model.threshold = None
    sampler = nelbo.load_sampler(run, 5)
    torch.testing.assert_close(model.sample(2, sampler, x_T=x_T), x, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vae")
    tiny.autoencoder().save_pretrained(path)
    return path


def test_latents_of_captions(autoencoder, tmp_path):
    pictures = draw_squares(tmp_path / "pictures")
    options = ["--model", "latent", "--autoencoder", str(autoencoder), "--size", "8", *DIT]
    text = ["--text-width", "16", "--text-layers", "1", "--text-heads", "2", "--vocabulary", "600"]
    run = train(str(pictures), tmp_path / "run", *options, *text, "--prediction", "velocity")
    model = nelbo.load(run)
    assert isinstance(model.prior.network, TextDiT)
    assert model.prior.network.config.width == 16
    assert scheduler(run)["_class_name"] == "FlowMatchEulerDiscreteScheduler"
    assert "betas" not in json.loads((run / "nelbo.json").read_text())
    assert model.prior.schedule.alphas_cumprod[-1] == 0
    sampler = nelbo.load_sampler(run, 3)
    assert isinstance(sampler, samplers.Euler)
    assert model.sample(2, sampler, prompt="red square of 4", guidance=2.0).isfinite().all()
    diffusers.PixArtAlphaPipeline.from_pretrained(run)


def test_latents_of_classes(autoencoder, tmp_path):
    folder = tmp_path / "pictures"
    for i, (name, colour) in enumerate(36 * list(COLOURS.items())[:1] + list(COLOURS.items())):
        (folder / name).mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (8, 8), colour)
        image.putpixel((0, 0), (i, i, i))
        image.save(folder / name / f"{i}.png")
    options = ["--model", "latent", "--autoencoder", str(autoencoder), "--size", "8", *DIT]
    run = train(str(folder), tmp_path / "run", *options, "--condition", "label")
    assert sorted(diffusers.DiTPipeline.from_pretrained(run).labels) == sorted(COLOURS)
    model = nelbo.load(run)
    assert model.num_classes == 3
    assert model.prior.prediction == "v_prediction"


def test_the_width_is_chosen_for_the_time():
    data = load_data("digits", "train").take(torch.arange(32))
    config = ModelConfig(network="dit", levels=4, blocks=1)
    cpu = torch.device("cpu")
    choices, task_of = width_choices(config, data), partial(timed_task, config, data)
    training = TrainingConfig(batch_size=8)
    least = choose_network(choices, task_of, training, 1e-9, cpu, threads=1)
    assert least.widths == (32,)
    assert [usual_patch(n, n) for n in (8, 16, 28, 32, 64, 30)] == [1, 1, 2, 2, 4, 2]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--network", "transformer"], "--network 'transformer'"),
        (["--prediction", "flow"], "prediction 'flow'"),
        (["--blocks", "2"], "--blocks and --patch are for --network dit"),
        (["--network", "dit", "--layers", "2"], "a transformer has --blocks"),
        (["--network", "dit", "--patch", "3"], "patches of 3 pixels"),
        (["--network", "dit", "--widths", "8", "16"], "one number, the width of its tokens"),
        (["--network", "dit", "--widths", "6"], "multiple of 4"),
        (["--schedule", "flow_matching", "--shift", "0"], "--shift must be positive"),
        (["--prediction", "velocity", "--shift", "3"], "--shift is of --schedule flow_matching"),
        (["--schedule", "flow_matching", "--prediction", "epsilon"], "ends without signal"),
    ],
)
def test_mistakes(options, match, tmp_path, capsys):
    message = mistake(
        capsys, "train", "digits", "--out", tmp_path / "run", "--steps", "1", *options
    )
    assert match in message
