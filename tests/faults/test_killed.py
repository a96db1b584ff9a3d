"""Training that is killed, told to stop, or damaged afterwards goes on as if it never was."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nelbo
from nelbo.cli import main
from nelbo.training.checkpoints import Checkpoints
from tests.faults.test_mistakes import mistake, snapshot

STEPS = 40
TINY = ["--widths", "8", "--layers", "1", "--levels", "6", "--batch-size", "8"]
EXACT = ["--threads", "1", "--precision", "fp32", "--warmup-steps", "5"]
OFTEN = ["--save-every", "0.05s", "--evaluate-images", "4", "--evaluate-levels", "1"]
COMMAND = ["train", "digits", *TINY, *EXACT, *OFTEN]


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "nelbo", *[str(a) for a in arguments]],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
    )


def wait_for(out: Path, steps: int) -> None:
    """Until a checkpoint of at least so many steps is there."""
    deadline = time.monotonic() + 120
    while max(Checkpoints(out / "training").steps(), default=-1) < steps:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state(out: Path) -> dict[str, torch.Tensor]:
    """All that training left behind after the last step."""
    last = Checkpoints(out / "training").path(STEPS)
    tensors = {
        f"{file.stem}/{name}": value
        for file in last.glob("*.safetensors")
        for name, value in load_file(file).items()
    }
    unet = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    return tensors | {f"unet/{name}": value for name, value in unet.items()}


def assert_same(a: Path, b: Path) -> None:
    first, second = state(a), state(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (a, b)
    ]
    for mine, theirs in zip(*rows, strict=True):
        del mine["seconds"], theirs["seconds"]
        assert mine == theirs


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("killed") / "unbroken"
    main([*COMMAND, "--out", str(out), "--steps", str(STEPS)])
    return out


def kill_and_resume(out: Path, delays: list[float]) -> None:
    """Kill training after each delay from its first checkpoint; then let it end."""
    arguments = [*COMMAND, "--out", out, "--steps", STEPS]
    for delay in delays:
        process = start(*arguments)
        wait_for(out, 0)
        time.sleep(delay)
        process.kill()
        process.wait()
        arguments = ["train", "--resume", "--out", out]
    main([str(a) for a in ["train", "--resume", "--out", out]])


def test_killed_at_any_moment_it_ends_the_same(unbroken, tmp_path):
    kill_and_resume(tmp_path / "run", [0.2])
    assert_same(unbroken, tmp_path / "run")


@pytest.mark.slow
def test_killed_at_twenty_random_moments(unbroken, tmp_path):
    moments = random.Random(0)
    kill_and_resume(tmp_path / "run", [moments.uniform(0.0, 3.0) for _ in range(20)])
    assert_same(unbroken, tmp_path / "run")


def test_termination_saves_first(tmp_path):
    out = tmp_path / "run"
    process = start(*COMMAND, "--out", out, "--steps", STEPS, "--save-every", "1h")
    wait_for(out, 0)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "--resume" in message
    assert "Traceback" not in message
    stopped = Checkpoints(out / "training").steps()[-1]
    assert 0 < stopped < STEPS
    assert f"stopped at step {stopped}" in message
    assert json.loads((out / "nelbo.json").read_text())["trained"]["steps"] == stopped


def test_damaged_checkpoint_is_passed_over(unbroken, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    checkpoints = Checkpoints(out / "training")
    assert len(checkpoints.steps()) == 2
    file = checkpoints.path(STEPS) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    main(["train", "--resume", "--out", str(out)])
    shown = " ".join(capsys.readouterr().err.split())
    assert "damaged checkpoint is passed over" in shown
    assert f"Resumed at step {checkpoints.steps()[0]}" in shown
    assert_same(unbroken, out)


def test_resuming_a_finished_run_makes_its_report_again(unbroken, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    (out / "report.html").unlink()
    (out / "evaluation.json").unlink()
    main(["train", "--resume", "--out", str(out)])
    assert (out / "report.html").is_file()
    (out / "report.html").unlink()
    main(["report", str(out), "--images", "4", "--levels", "1"])
    assert (out / "report.html").is_file()
    assert_same(unbroken, out)


def test_what_cannot_change_halfway(unbroken, tmp_path, capsys):
    resume = ["train", "--resume", "--out", unbroken]
    message = mistake(capsys, *resume, "--batch-size", "16")
    assert "has batch_size 8, which cannot change to 16" in message
    assert "has layers 1" in mistake(capsys, *resume, "--layers", "2")
    assert "choose one" in mistake(capsys, *resume, "--overwrite")
    message = mistake(capsys, "train", "--resume", "--out", tmp_path / "nothing")
    assert "holds no run to resume" in message
    assert "DATA is missing" in mistake(capsys, "train", "--out", tmp_path / "nothing")
    assert "--out is missing" in mistake(capsys, "train", "digits")


def test_settings_are_reused_and_checked(unbroken, tmp_path, capsys):
    out = tmp_path / "again"
    config = unbroken / "config.yaml"
    main(["train", "--config", str(config), "--out", str(out), "--steps", "2", "--seed", "5"])
    model = nelbo.load(out)
    assert model.network.config.block_out_channels == (8,)
    settings = json.loads((out / "nelbo.json").read_text())["settings"]["training"]
    assert (settings["steps"], settings["seed"], settings["batch_size"]) == (2, 5, 8)
    for old, new, message in (
        ("batch_size: 8", "batch_sise: 8", "unknown field 'batch_sise'"),
        ("batch_size: 8", "batch_size: many", "batch_size is 'many', expected int"),
        ("data: digits", "data: [digits]", "data is ['digits']"),
        ("data: digits", "data: [", "not readable as YAML"),
        ("data: digits", "out: x", "'out' is given on the command line only"),
    ):
        wrong = tmp_path / "wrong.yaml"
        wrong.write_text(config.read_text().replace(old, new))
        shown = mistake(capsys, "train", "--config", wrong, "--out", tmp_path / "new")
        assert message in shown
        assert "wrong.yaml" in shown


def test_an_old_run_stays_until_the_new_one_has_a_checkpoint(unbroken, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    before = snapshot(out)
    process = start(*COMMAND, "--out", out, "--overwrite", "--save-every", "1h", "--steps", 10**6)
    staged = out / ".new-run"
    wait_for(staged, 0)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "is untouched" in message
    assert "so far" not in message
    assert snapshot(out) == before


def test_a_replacement_cut_short_is_brought_to_its_end(tmp_path):
    from nelbo.training.run_directory import RunDirectory

    def a_run(path: Path, marker: str) -> None:
        path.mkdir(parents=True)
        (path / "nelbo.json").write_text(marker)
        (path / "unet").mkdir()
        (path / "unet" / "config.json").write_text(marker)

    for stage in (".new-run-complete", ".new-run-moving"):
        out = tmp_path / stage
        a_run(out, "old")
        (out / "report.html").write_text("old")
        a_run(out / stage, "new")
        if stage == ".new-run-moving":  # the old one is gone by then
            for name in ("nelbo.json", "report.html"):
                (out / name).unlink()
            shutil.rmtree(out / "unet")
            (out / stage / "unet").rename(out / "unet")
        RunDirectory.open(out)
        assert sorted(p.name for p in out.iterdir()) == ["nelbo.json", "unet"]
        assert (out / "nelbo.json").read_text() == "new"
        assert (out / "unet" / "config.json").read_text() == "new"
