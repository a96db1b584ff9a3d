"""nelbo train --model latent without an autoencoder: both stages in one run, broken off in each."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import nelbo
from nelbo.cli import main
from nelbo.commands.options.train import Train
from nelbo.commands.starting_point import starting_point
from nelbo.data import ImageData
from nelbo.runs.checkpoints import Checkpoints
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.autoencoder.build import (
    autoencoder_widths,
    build_autoencoder,
    read_autoencoder,
)
from nelbo.training.kinds.autoencoder.options import TrainAutoencoder
from nelbo.training.kinds.latent.build import build_latent_model
from nelbo.training.kinds.latent.latents import encode_data
from nelbo.training.kinds.latent.objective import PriorObjective
from nelbo.training.kinds.latent.options import LatentSettings, TrainLatent
from nelbo.training.kinds.latent.task import PriorTask
from nelbo.training.trainer import Trainer
from tests.children import command
from tests.commands.squares import draw_squares
from tests.commands.test_train_latent import EXACT, LATENT, assert_same
from tests.conftest import reports
from tests.faults.test_killed import wait_for
from tests.faults.test_mistakes import mistake

STEPS, FIRST, SECOND = 8, 4, 4
# In each stage a checkpoint after three steps, whose validation is the best so far.
STAGES = [*LATENT, "--validate-every", "3", "--size", "8"]
STAGES += ["--steps", str(STEPS), "--autoencoder-steps", str(FIRST)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return draw_squares(tmp_path_factory.mktemp("stages") / "pictures")


@pytest.fixture(scope="module")
def run(pictures) -> Path:
    out = pictures.parent / "run"
    with reports(True):
        main(["train", str(pictures), *STAGES, "--out", str(out)])
    return out


def steps_of(run: Path) -> int:
    return RunDirectory(run).notes["trained"]["steps"]


def broken_off(run: Path, out: Path, *left: str) -> Path:
    """A copy of the run of which only these files and folders are left."""
    out.mkdir()
    for name in ("config.yaml", *left):
        copy = shutil.copytree if (run / name).is_dir() else shutil.copy
        copy(run / name, out / name)
    return out


def without_end(run: Path, steps: int) -> None:
    """As if the run had been killed after the last checkpoint but one."""
    kept = Checkpoints(run / "training")
    shutil.rmtree(kept.path(steps))
    assert 0 < kept.steps()[-1] < steps
    (run / "evaluation.json").unlink(missing_ok=True)


def test_one_command_makes_both(run):
    assert (steps_of(run / "autoencoder"), steps_of(run)) == (FIRST, SECOND)
    model = nelbo.load(run)
    assert model.text is not None
    first, copied = (read_autoencoder(path) for path in (run / "autoencoder", run))
    assert first is not None
    assert copied is not None
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, copied.state_dict()[name])
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert (kept["kind"], kept["autoencoder"], kept["training"]["steps"]) == ("latent", None, STEPS)
    first_kept = yaml.safe_load((run / "autoencoder" / "config.yaml").read_text())
    assert (first_kept["kind"], first_kept["training"]["steps"]) == ("autoencoder", FIRST)
    assert "psnr" in RunDirectory(run / "autoencoder").evaluation()["test"]
    assert all((run / part / "report.html").is_file() for part in (".", "autoencoder"))


@pytest.mark.usefixtures("ends_with_the_model")
def test_killed_in_the_first_stage(run, tmp_path):
    out = broken_off(run, tmp_path / "out", "autoencoder", "samples", "metrics.jsonl")
    without_end(out / "autoencoder", FIRST)
    main(["train", "--resume", "--out", str(out)])
    assert_same(run, out, SECOND)


@pytest.mark.usefixtures("ends_with_the_model")
def test_killed_before_the_first_checkpoint_and_between_the_stages(run, tmp_path, capsys):
    out = broken_off(run, tmp_path / "first", "samples", "metrics.jsonl")
    (out / "autoencoder" / "samples").mkdir(parents=True)  # begun, and nothing saved
    main(["train", "--resume", "--out", str(out)])
    assert_same(run, out, SECOND)
    assert "Stage 1 of 2: the autoencoder" in capsys.readouterr().err
    out = broken_off(run, tmp_path / "between", "autoencoder", "samples", "metrics.jsonl")
    main(["train", "--resume", "--out", str(out), "--json"])
    printed = capsys.readouterr()
    assert "Stage 1" not in printed.err
    assert "autoencoder" not in json.loads(printed.out)
    assert_same(run, out, SECOND)


@pytest.mark.usefixtures("ends_with_the_model")
def test_an_autoencoder_goes_on_by_the_optimiser_that_it_was_begun_with(
    pictures, tmp_path, monkeypatch
):
    """As one that was begun before Muon was its default."""
    usual = TrainLatent.first_stage

    def by_adamw(options: TrainLatent, *usual_training: TrainingConfig) -> TrainingConfig:
        return replace(usual(options, *usual_training), optimizer="adamw")

    begun, out = tmp_path / "begun", tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(TrainLatent, "first_stage", by_adamw)
        main(["train", str(pictures), *STAGES, "--out", str(begun)])
    broken_off(begun, out, "autoencoder", "samples", "metrics.jsonl")
    without_end(out / "autoencoder", FIRST)
    main(["train", "--resume", "--out", str(out)])
    assert_same(begun, out, SECOND)


@pytest.mark.slow
def test_stopped_in_the_first_and_killed_in_the_second(run, pictures, tmp_path):
    out = tmp_path / "out"
    often = ["--save-every", "0.05s"]
    child = command("train", pictures, *STAGES, *often, "--out", out, log=tmp_path / "log")
    wait_for(out / "autoencoder", 1)
    child.send(signal.SIGTERM)
    assert child.join() == 128 + signal.SIGTERM
    assert f"nelbo train --resume --out {out} goes on" in child.message
    child = command("train", "--resume", "--out", out, log=tmp_path / "log")
    wait_for(out, 1)
    child.kill()
    main(["train", "--resume", "--out", str(out)])
    assert_same(run, out, SECOND)


@pytest.mark.usefixtures("ends_with_the_model")
def test_the_first_stage_may_serve_another_run(run, pictures, tmp_path):
    out = tmp_path / "again"
    options = [*LATENT, "--validate-every", "3", "--size", "8", "--steps", str(SECOND)]
    source = str(run / "autoencoder")
    main(["train", str(pictures), *options, "--autoencoder", source, "--out", str(out)])
    mine, theirs = (nelbo.load(path).prior.state_dict() for path in (out, run))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert not (out / "autoencoder").exists()


def test_an_old_run_is_there_until_the_new_one_has_a_checkpoint(tmp_path):
    out = tmp_path / "run"
    old = RunDirectory(out).make()
    (old.path / "nelbo.json").write_text('{"old": 1}')
    new = RunDirectory(out).make(overwrite=True)
    stage = new.make_stage("autoencoder")
    assert stage.replaces == out
    assert RunDirectory(out).notes == {"old": 1}
    stage.write_evaluation({"test": {}})
    beside = RunDirectory(out)
    beside.join()  # as another process sees it
    assert (beside.path, beside.replaces, beside.has_model) == (new.path, out, False)
    stage.establish()
    beside.establish(move=False)
    assert (beside.path, beside.replaces) == (out, None)
    assert (stage.path, new.path, stage.replaces) == (out / "autoencoder", out, None)
    assert stage.evaluation() == {"test": {}}
    assert not RunDirectory(out).has_model
    assert RunDirectory.open(out).path == out  # at its first stage
    later = RunDirectory(out).make(overwrite=True)
    later.make_stage("autoencoder").abandon()
    assert RunDirectory(out).stage("autoencoder").evaluation() == {"test": {}}


def test_one_process_trains_a_run(run_path, tmp_path, capsys):
    out = Path(shutil.copytree(run_path, tmp_path / "run"))
    refusal = f"{out} is being trained by another process"
    with RunDirectory(out).alone():
        assert refusal in mistake(capsys, "train", "--resume", "--out", out)
        again = mistake(capsys, "train", "digits", "--overwrite", "--steps", "1", "--out", out)
        assert refusal in again
        assert nelbo.load(out).shape == (1, 8, 8)
    with RunDirectory(out).alone():
        pass


def test_reading_a_run_leaves_the_one_that_is_to_replace_it(tmp_path):
    out = tmp_path / "run"
    (RunDirectory(out).make().path / "nelbo.json").write_text("{}")
    new = RunDirectory(out)
    with new.alone():
        new.make(overwrite=True)
        assert RunDirectory.open(out).path == out
        new.metrics.append({"step": 1})
        assert new.replaces == out
    RunDirectory.open(out)  # as after a kill
    assert not new.path.exists()


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["emoji"], TrainLatent),
        (["--size", "64", "emoji"], TrainLatent),
        (["--overwrite", "emoji"], TrainLatent),
        (["emoji", "--model", "auto", "--text-width=96"], TrainLatent),
        (["emoji", "--model", "pixel"], Train),
        (["emoji", "--model", "autoencoder"], TrainAutoencoder),
        (["digits", "--out", "emoji"], Train),
        ([], Train),
    ],
)
def test_the_model_suits_the_data(arguments, kind):
    assert type(starting_point(arguments)) is kind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["digits", "--model", "latent", "--class-conditional"],
            "--class-conditional is an option of --model pixel, and the model here is latent",
        ),
        (["emoji", "--kl-weight", "1"], "--kl-weight is an option of --model autoencoder"),
        (
            ["digits", "--latent-channels", "4"],
            "--latent-channels is an option of --model autoencoder, and the model here is pixel",
        ),
    ],
)
def test_an_option_of_another_kind_is_said_to_be_one(arguments, message, tmp_path, capsys):
    found = mistake(capsys, "train", *arguments, "--out", str(tmp_path / "run"))
    assert message in found
    assert "--help" in found


@pytest.mark.usefixtures("ends_with_the_model")
def test_what_is_chosen_is_said(pictures, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    message = mistake(capsys, "train", "emoji", *out, "--channels", "1")
    assert "emoji has captions: training a diffusion model of latents" in message
    assert "--model pixel trains one of pixels" in message
    tiny = ["--widths", "8", "--levels", "4", "--steps", "1", "--batch-size", "4", *EXACT]
    main(["train", str(pictures), "--size", "8", *tiny, *out, "--evaluate-images", "2"])
    assert "--model latent trains one of latents that does" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "first", "second"),
    [
        ({"steps": 100}, (25, None), (75, None)),
        ({"time_budget": "6h"}, (None, 5400.0), (None, 21600 - 70.0)),
        ({}, (None, 150.0), (None, 600 - 70.0)),
        ({"steps": 100, "time_budget": "200s"}, (25, 50.0), (75, 130.0)),
        ({"autoencoder_steps": 10, "steps": 100}, (10, None), (75, None)),
        ({"autoencoder_time": "100s", "time_budget": "200s"}, (None, 100.0), (None, 130.0)),
    ],
)
def test_the_length_is_divided(asked, first, second):
    length = {k: v for k, v in asked.items() if k in ("steps", "time_budget")}
    own = {k: v for k, v in asked.items() if k not in length}
    options = TrainLatent(training=TrainingConfig(**length), **own)
    rest = options.second_stage(25, 70.0)
    for stage, expected in ((options.first_stage(), first), (rest, second)):
        assert (stage.steps, stage.seconds) == expected


@pytest.mark.parametrize(
    ("size", "latents", "count"),
    [((8, 8), 4, 2), ((28, 28), 14, 2), ((32, 32), 8, 3), ((64, 64), 16, 3), ((128, 128), 16, 4)],
)
def test_latents_have_a_sensible_size(size, latents, count):
    widths = autoencoder_widths(*size)
    assert len(widths) == count
    assert size[0] // 2 ** (count - 1) == latents


def test_both_stages_take_a_step_at_64(generator):
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator)
    data = ImageData("noise", images, 256, tuple("abcd"))
    autoencoder = build_autoencoder(data)
    assert autoencoder.config.block_out_channels == (24, 48, 96)
    model = build_latent_model(
        autoencoder, data, LatentSettings(widths=(16, 16), heads=2, levels=10)
    )
    assert model.prior.shape == (8, 16, 16)
    config = TrainingConfig(steps=1, batch_size=2, objective="simple")
    latents = encode_data(model, data, generator=generator)
    (step,) = Trainer(PriorTask(PriorObjective(model), latents, config)).run()
    assert step.gradient_norm > 0


def test_mistakes_are_explained(run, pictures, tmp_path, capsys):
    common = [pictures, *STAGES, "--out", tmp_path / "new"]
    message = mistake(capsys, "train", *common, "--autoencoder-steps", str(STEPS))
    assert f"leave none of --steps {STEPS} for the prior" in message
    message = mistake(capsys, "train", *common, "--autoencoder-steps", "0")
    assert "--autoencoder-steps must be at least 1" in message
    options = ["--time-budget", "10s", "--autoencoder-time", "10s"]
    assert "leaves nothing of the 10 s" in mistake(capsys, "train", *common, *options)
    options = ["--autoencoder", run / "autoencoder", "--autoencoder-steps", "3"]
    assert "leave them or --autoencoder out" in mistake(capsys, "train", *common, *options)
    # What does not fit the second stage is said before the first.
    widths = STAGES.index("--widths") + 1
    deep = [*STAGES[:widths], "8", "16", "16", "16", *STAGES[widths + 2 :]]
    message = mistake(capsys, "train", pictures, *deep, "--out", tmp_path / "new")
    assert "latents are 4×4" in message
    assert not (tmp_path / "new").exists()
    message = mistake(capsys, "train", "--resume", "--out", run, "--autoencoder-steps", "5")
    assert "has --autoencoder-steps 4, which cannot change to 5" in message
    short = broken_off(run, tmp_path / "short", "autoencoder", "samples", "metrics.jsonl")
    config = (short / "config.yaml").read_text()
    shared = config.replace(f"autoencoder_steps: {FIRST}", "autoencoder_steps: null")
    assert shared != config
    (short / "config.yaml").write_text(shared)
    message = mistake(capsys, "train", "--resume", "--out", short, "--steps", "4")
    assert "which leaves nothing for the prior: resume with more --steps" in message
