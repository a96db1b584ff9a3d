"""Every mistake of a user: one clear message, exit code 2, nothing lost."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image

import nelbo
from nelbo.cli import main
from tests.children import command, wait_until
from tests.commands.conftest import TINY


def mistake(capsys, *arguments: str) -> str:
    """The message of a command that must fail with exit code 2 and no traceback."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert message.count("error:") == 1
    return " ".join(message.split())


def train(*arguments: object) -> list[str]:
    return ["train", *[str(a) for a in arguments], "--steps", "3", *TINY]


def snapshot(path: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_unknown_data(tmp_path, capsys):
    message = mistake(capsys, *train("cats", "--out", tmp_path / "run"))
    assert "unknown data 'cats'" in message
    assert not (tmp_path / "run").exists()


def test_unknown_level_sampler_and_objective(tmp_path, capsys):
    out = tmp_path / "run"
    for option, names in (("--level-sampler", "low_discrepancy"), ("--objective", "min_snr")):
        message = mistake(capsys, *train("digits", "--out", out, option, "sobol"))
        assert "'sobol'" in message
        assert names in message
        assert not out.exists()


def test_empty_folder(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    message = mistake(capsys, *train(tmp_path / "empty", "--out", tmp_path / "run"))
    assert "holds no .png" in message


def test_folder_of_unreadable_pictures(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no picture")
    message = mistake(capsys, *train(tmp_path, "--out", tmp_path / "run"))
    assert "none of the 2 pictures" in message
    assert "a.png" in message


@pytest.mark.usefixtures("ends_with_the_model")
def test_another_run_is_not_overwritten(run_path, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run_path, copy)
    (copy / "mine.txt").write_text("keep me")
    before = snapshot(copy)
    message = mistake(capsys, *train("digits", "--out", copy))
    assert "already holds a run" in message
    assert "--overwrite" in message
    assert snapshot(copy) == before
    # a mistake elsewhere loses nothing even with --overwrite
    mistake(capsys, *train("cats", "--out", copy, "--overwrite"))
    assert snapshot(copy) == before
    main(train("digits", "--out", copy, "--overwrite"))
    assert (copy / "mine.txt").read_text() == "keep me"
    assert json.loads((copy / "nelbo.json").read_text())["trained"]["steps"] == 3


def test_out_is_a_file_or_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert "is a file" in mistake(capsys, *train("digits", "--out", tmp_path / "file"))
    assert "cannot write" in mistake(capsys, *train("digits", "--out", tmp_path / "file" / "run"))


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ],
)
def test_missing_or_damaged_files_are_named(run_path, tmp_path, capsys, name):
    copy = tmp_path / "copy"
    shutil.copytree(run_path, copy)
    file = copy / name
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert file.name in mistake(capsys, "evaluate", copy)
    file.unlink()
    message = mistake(capsys, "evaluate", copy)
    assert file.name in message


@pytest.mark.parametrize(
    ("file", "field", "value", "message"),
    [
        ("model_index.json", "_class_name", "MochiPipeline", "MochiPipeline"),
        ("model_index.json", "scheduler", ["diffusers", "X"], "scheduler is of class 'X'"),
        ("scheduler/scheduler_config.json", "prediction_type", "flow", "prediction_type is 'flow'"),
        ("scheduler/scheduler_config.json", "variance_type", "learned", "variance_type"),
        ("scheduler/scheduler_config.json", "variance_type", "fixed_small", "out_channels is 2"),
        ("scheduler/scheduler_config.json", "thresholding", "yes", "thresholding"),
        ("scheduler/scheduler_config.json", "clip_sample_range", -2.0, "clip_sample_range"),
        ("scheduler/scheduler_config.json", "trained_betas", [0.1, 3], "level 2 is 3.0"),
        ("scheduler/scheduler_config.json", "trained_betas", "many", "trained_betas"),
        ("nelbo.json", "data", {"kind": "sound"}, "data is {'kind': 'sound'}"),
        ("nelbo.json", "shape", [8, 8], "shape is [8, 8]"),
        ("unet/config.json", "block_out_channels", [8, 24], "wrong shape"),
    ],
)
def test_wrong_fields_are_named(run_path, tmp_path, capsys, file, field, value, message):
    copy = tmp_path / "copy"
    shutil.copytree(run_path, copy)
    content = json.loads((copy / file).read_text()) | {field: value}
    (copy / file).write_text(json.dumps(content))
    shown = mistake(capsys, "evaluate", copy)
    assert message in shown
    assert Path(file).name.split(".")[0] in shown or "diffusion_pytorch_model" in shown


def test_pipeline_without_levels_is_said_to_have_256(run_path, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run_path, copy)
    (copy / "nelbo.json").unlink()
    with pytest.warns(UserWarning, match="assuming 256"):
        model = nelbo.load(copy)
    assert model.data == nelbo.Pixels(256)
    assert model.shape == (1, 8, 8)
    message = mistake(capsys, "evaluate", copy)
    assert "give --data" in message
    message = mistake(capsys, "evaluate", copy, "--data", "digits")
    assert "17 pixel levels, the model has 256" in message


def test_evaluating_on_what_does_not_fit(run_path, tmp_path, capsys):
    for i in range(3):
        Image.new("L", (8, 8), 90).save(tmp_path / f"{i}.png")
    message = mistake(capsys, "evaluate", run_path, "--data", tmp_path, "--split", "all")
    assert "pictures have 256 pixel levels" in message
    assert "has 17: it gives them no probability" in message
    assert "unknown split" in mistake(capsys, "evaluate", run_path, "--split", "dev")
    assert "levels must be" in mistake(capsys, "evaluate", run_path, "--levels", "0")
    assert "must be at least 1" in mistake(capsys, "evaluate", run_path, "--images", "0")
    assert "no directory" in mistake(capsys, "evaluate", tmp_path / "nothing")


def test_sampling_mistakes(run_path, tmp_path, capsys):
    out = ["--out", tmp_path / "x.png"]
    assert "1..20" in mistake(capsys, "sample", run_path, "--steps", "21", *out)
    assert "unknown spacing" in mistake(capsys, "sample", run_path, "--spacing", "even", *out)
    assert "not class-conditional" in mistake(capsys, "sample", run_path, "--label", "1", *out)
    assert "neither labels nor text" in mistake(capsys, "sample", run_path, "--guidance", "2", *out)
    assert "at least 1" in mistake(capsys, "sample", run_path, "-n", "0", *out)
    assert ".png" in mistake(capsys, "sample", run_path, "--out", tmp_path / "x.txt")
    (tmp_path / "file").write_text("x")
    under_file = tmp_path / "file" / "x.png"
    assert "file" in mistake(capsys, "sample", run_path, "--out", under_file)
    assert "device 'moon'" in mistake(capsys, "sample", run_path, "--device", "moon", *out)


def test_settings_mistakes(tmp_path, capsys):
    out = ["--out", tmp_path / "run"]
    for option, value, message in (
        ("--time-budget", "soon", "not a duration"),
        ("--learning-rate", "-1", "--learning-rate must be positive"),
        ("--objective", "best", "unknown objective"),
        ("--schedule", "best", "unknown schedule"),
        ("--widths", "0", "--widths must be at least 2 channels each, got [0]"),
        ("--widths", "1", "--widths must be at least 2 channels each, got [1]"),
        ("--attention", "3", "attention at 3 pixels"),
        ("--seed", "-1", "--seed must not be negative"),
        ("--precision", "fp8", "unknown --precision"),
        ("--batch-size", "1000000", "GB are free on cpu"),
        ("--levels", "0", "--levels must be at least 1"),
        ("--widths", "8 16 24 32 40", "divisible by 16"),
    ):
        assert message in mistake(
            capsys, "train", "digits", *out, "--steps", "1", option, *value.split()
        )
        assert not (tmp_path / "run").exists()


def test_divergence_keeps_the_last_good_model(tmp_path, capsys):
    out = tmp_path / "run"
    diverging = ["--learning-rate", "1e18", "--gradient-clip", "1e30", "--warmup-steps", "0"]
    message = mistake(capsys, "train", "digits", "--out", out, "--steps", "50", *TINY, *diverging)
    assert "diverged at step" in message
    assert str(out.name) in message
    model = nelbo.load(out)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_other_files_are_no_place_for_a_run(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("keep me")
    message = mistake(capsys, *train("digits", "--out", tmp_path))
    assert "holds other files (thesis.txt)" in message
    assert snapshot(tmp_path) == {str(tmp_path / "thesis.txt"): b"keep me"}


def test_data_that_is_gone_is_explained(run_path, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run_path, copy)
    content = json.loads((copy / "nelbo.json").read_text()) | {"source": str(tmp_path / "gone")}
    (copy / "nelbo.json").write_text(json.dumps(content))
    message = mistake(capsys, "evaluate", copy)
    assert "which is not there any more: give --data" in message


def test_interrupt_saves_what_is_done(tmp_path):
    out = tmp_path / "run"
    child = command(
        "train", "digits", "--out", out, "--time-budget", "10m", *TINY, log=tmp_path / "log"
    )
    metrics = out / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0)
    child.send(signal.SIGINT)
    assert child.join() == 130
    assert "Traceback" not in child.message
    assert json.loads((out / "nelbo.json").read_text())["trained"]["steps"] >= 10
    assert nelbo.load(out).shape == (1, 8, 8)


def test_brackets_in_a_message_are_shown(run_path, tmp_path, capsys):
    copy = tmp_path / "copy [old]"
    shutil.copytree(run_path, copy)
    content = json.loads((copy / "nelbo.json").read_text()) | {"shape": "big"}
    (copy / "nelbo.json").write_text(json.dumps(content))
    message = mistake(capsys, "evaluate", copy)
    assert "copy [old]" in message
    assert "expected [channels, height, width]" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--error", "0"], "--error must be positive, in bits/dim, got 0"),
        (["--error", "-0.1"], "--error must be positive, in bits/dim, got -0.1"),
        (["--error", "nan"], "--error must be a finite number, got nan"),
        (["--levels", "0"], "--levels must be all, optimal or at least 1, got 0"),
        (["--levels", "3", "--error", "0.1"], "give it or --levels, not both"),
    ],
)
def test_levels_and_errors_that_cannot_be(options, message, run_path, capsys):
    assert message in mistake(capsys, "evaluate", run_path, *options)


def test_pictures_of_another_size(run_path, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        Image.new("L", (12, 20), 40 * i).save(folder / f"{i}.png")
    # A run whose pixels have as many levels as pictures.
    copy = tmp_path / "copy"
    shutil.copytree(run_path, copy)
    content = json.loads((copy / "nelbo.json").read_text())
    content["data"]["levels"] = 256
    (copy / "nelbo.json").write_text(json.dumps(content))
    options = ["--data", str(folder), "--split", "all"]
    message = mistake(capsys, "evaluate", copy, *options)
    assert "0.png is 20×12, the model takes 8×8: give --resize" in message
    capsys.readouterr()
    main(["evaluate", str(copy), *options, "--resize", "--levels", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["examples"] == 3


def test_digits_for_a_model_of_another_size(tmp_path, capsys):
    model = nelbo.Diffusion(
        nelbo.UNet(
            sample_size=4,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            norm_num_groups=4,
            layers_per_block=1,
        ),
        nelbo.NoiseSchedule.linear(5, 0.1, 0.5),
        data=nelbo.Pixels(17),
        shape=(1, 4, 4),
    )
    nelbo.save(model, tmp_path / "small")
    arguments = ["evaluate", tmp_path / "small", "--data", "digits", "--levels", "2"]
    message = mistake(capsys, *arguments)
    assert "digits has images of 8×8, the model takes 4×4: give --resize" in message
    main([*map(str, arguments), "--resize", "--images", "3", "--json"])
    assert json.loads(capsys.readouterr().out)["examples"] == 3


def test_a_run_does_not_go_back(run_path, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run_path, copy)
    message = mistake(capsys, "train", "--resume", "--out", copy, "--steps", "3")
    assert "has taken 12 steps already, which is more than --steps 3" in message


def test_pictures_cannot_be_written_under_a_file(run_path, tmp_path, capsys):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "x.png"
    message = mistake(
        capsys, "sample", run_path, "--out", out, "-n", "1", "--sampler", "ddim", "--steps", "2"
    )
    assert f"--out {out} cannot be made: {tmp_path / 'file'} is a file" in message
