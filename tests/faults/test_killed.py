"""Training that is killed, told to stop, or damaged afterwards goes on as if it never was."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nelbo
from nelbo.cli import main
from nelbo.runs.checkpoints import Checkpoints
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.supervisor import Supervisor
from tests.children import Child, command, wait_until
from tests.conftest import reports
from tests.faults.conftest import COMMAND, STEPS
from tests.faults.test_mistakes import mistake, snapshot
from tests.training.test_supervisor import supervised

pytestmark = pytest.mark.usefixtures("unreported")


def wait_for(out: Path, steps: int) -> None:
    """Until a checkpoint of at least so many steps is there."""
    wait_until(lambda: max(Checkpoints(out / "training").steps(), default=-1) >= steps)


def state(out: Path) -> dict[str, torch.Tensor]:
    """All that training left behind after the last step."""
    checkpoints = Checkpoints(out / "training")
    last = checkpoints.path(checkpoints.steps()[-1])
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


def kill_and_resume(
    out: Path, steps: int, kills: int, moments: random.Random
) -> list[tuple[int, bool]]:
    """Kill training again and again, after none to three more checkpoints; then let it end.

    Returns the last whole checkpoint at each kill, and whether a file was being written.
    """
    arguments = [*COMMAND, "--save-every", "0.001s", "--out", out, "--steps", steps]
    log, checkpoints = out.with_suffix(".log"), Checkpoints(out / "training")
    found: list[tuple[int, bool]] = []
    pace = 0.1  # seconds from one checkpoint to the next
    for _ in range(kills):
        first = found[-1][0] if found else -1
        more = moments.randrange(4)
        child = command(*arguments, log=log)
        wait_until(lambda: "Training on" in child.message or not child.alive)  # noqa: B023
        began = time.monotonic()
        wait_for(out, first + more)
        if more:
            # However slow it was: there are to be steps left for the next kill.
            pace = min(pace, (time.monotonic() - began) / more)
        time.sleep(moments.uniform(0.0, pace))
        assert child.alive, child.message  # else it would not have been killed
        child.kill()
        last, problems = checkpoints.newest()
        assert not problems
        writing = any(out.glob("training/.writing-*")) or any(out.rglob(".*.????????"))
        found.append((-1 if last is None else last.step, writing))
        arguments = ["train", "--resume", "--out", out]
    assert command(*arguments, log=log).join() == 0
    return found


def test_killed_at_any_moment_it_ends_the_same(unbroken, tmp_path):
    kill_and_resume(tmp_path / "run", STEPS, 2, random.Random(1))
    assert_same(unbroken, tmp_path / "run")


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path):
    """Of the steps of a run and of its checkpoints, one a step: half of its time it writes."""
    out, unbroken = tmp_path / "run", tmp_path / "unbroken"
    found = kill_and_resume(out, 120, 20, random.Random(0))
    print(f"last checkpoint at each kill, * while writing: {_marked(found)}")
    last = [step for step, _ in found]
    assert last == sorted(last)
    assert len(set(last)) >= 10
    assert any(writing for _, writing in found)
    main([*COMMAND, "--out", str(unbroken), "--steps", "120"])
    assert_same(unbroken, out)


def _marked(found: list[tuple[int, bool]]) -> str:
    return " ".join(f"{step}{'*' * writing}" for step, writing in found)


def test_killed_before_its_first_checkpoint_it_begins_again(unbroken, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(unbroken / "config.yaml", out)
    main(["train", "--resume", "--out", str(out)])
    assert "has no checkpoint yet and begins again" in capsys.readouterr().err
    assert_same(unbroken, out)


def test_killed_between_its_last_checkpoint_and_its_model(unbroken, tmp_path):
    """The checkpoint is of the last step, the model of an earlier one, or cut short."""
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    (out / "nelbo.json").write_text('{"trained": {"st')
    weights = out / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (out / "unet" / f".{weights.name}.abcd_012").write_bytes(b"left behind")
    (out / "unet" / ".mine").touch()
    main(["train", "--resume", "--out", str(out)])
    assert_same(unbroken, out)
    assert sorted(p.name for p in (out / "unet").iterdir()) == [
        ".mine",
        "config.json",
        weights.name,
    ]


def test_termination_saves_first(tmp_path):
    out = tmp_path / "run"
    endless = ["--steps", STEPS, "--save-every", "1h"]
    child = command(*COMMAND, "--out", out, *endless, log=tmp_path / "log")
    wait_for(out, 0)
    child.send(signal.SIGTERM)
    assert child.join() == 128 + signal.SIGTERM
    assert "--resume" in child.message
    assert "Traceback" not in child.message
    stopped = Checkpoints(out / "training").steps()[-1]
    assert 0 < stopped < STEPS
    assert f"stopped at step {stopped}" in child.message
    assert json.loads((out / "nelbo.json").read_text())["trained"]["steps"] == stopped


def test_damaged_checkpoint_is_passed_over(unbroken, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    checkpoints = Checkpoints(out / "training")
    before = checkpoints.steps()[-2]
    file = checkpoints.path(STEPS) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    main(["train", "--resume", "--out", str(out)])
    shown = " ".join(capsys.readouterr().err.split())
    assert "damaged checkpoint is passed over" in shown
    assert f"Resumed at step {before}" in shown
    assert_same(unbroken, out)


def test_two_damaged_checkpoints_are_passed_over_and_without_a_whole_one_it_ends(
    unbroken, tmp_path, capsys
):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    checkpoints = Checkpoints(out / "training")
    first, *damaged = checkpoints.steps()
    for step in damaged:
        (checkpoints.path(step) / "model.safetensors").write_bytes(b"cut")
    main(["train", "--resume", "--out", str(out)])
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.count("damaged checkpoint is passed over") == 2
    assert f"Resumed at step {first}" in shown
    assert_same(unbroken, out)
    for step in checkpoints.steps():
        (checkpoints.path(step) / "manifest.json").unlink()
    message = mistake(capsys, "train", "--resume", "--out", out)
    assert "holds no whole checkpoint to go on from" in message
    assert message.count("manifest.json is missing") == len(checkpoints.steps())


def test_records_that_a_kill_left_half_written(unbroken, tmp_path, capsys):
    """Damaged lines of metrics cost those lines; settings that cannot be read are named."""
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    checkpoints = Checkpoints(out / "training")
    shutil.rmtree(checkpoints.path(STEPS))
    metrics = out / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    damaged = [b"\xff\x00 flipped\n", b"7\n", b'{"step": true}\n', b'{"step": 1, "loss": []}\n']
    metrics.write_bytes(b"".join([*lines[:-1], *damaged, lines[-1][:40]]))
    main(["train", "--resume", "--out", str(out)])
    assert_same(unbroken, out)
    (out / "config.yaml").write_text((out / "config.yaml").read_text()[:30] + "\n  x: [")
    assert "config.yaml is not readable as YAML" in mistake(
        capsys, "train", "--resume", "--out", out
    )
    (out / "config.yaml").write_text("")
    assert "config.yaml must hold a mapping" in mistake(capsys, "train", "--resume", "--out", out)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_an_operation_on_files_of_a_save(tmp_path, every):
    """Each time the last whole checkpoint and the model load, and the next save succeeds."""
    begun = supervised(tmp_path, steps=6)
    for event in begun.run():
        if event.step == 3:
            break
    begun.trainer.step = 4
    base = begun.run_directory.path
    killed = 0
    while True:
        run = tmp_path / f"killed-{killed}"
        shutil.copytree(base, run)
        begun.run_directory = RunDirectory(run)
        child = Child(_killed_in_a_save, begun, killed, log=tmp_path / "log")
        if child.join() == 0:
            break
        assert child.process.exitcode == -signal.SIGKILL, child.message
        last, problems = begun.checkpoints.newest()
        assert not problems
        assert last.step in (2, 4)
        RunDirectory(run).reopen()
        left = nelbo.load(run).network.conv_in.weight
        average = last.tensors["average"]["network.conv_in.weight"]
        # The model may be of the checkpoint before, until the run is resumed.
        assert torch.equal(left, average) or last.step == 4
        begun.checkpoints.save(replace(last, step=5))
        assert begun.checkpoints.newest()[0].step == 5
        assert not list(run.rglob(".*"))
        shutil.rmtree(run)
        killed += every
    print(f"killed before one in {every} of {killed} operations")
    assert killed > 20
    assert begun.checkpoints.newest()[0].step == 4


def _killed_in_a_save(supervisor: Supervisor, after: int) -> None:
    left = after

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod")
        if event == "open":
            changes = bool(int(arguments[2]) & (os.O_WRONLY | os.O_RDWR))
        if changes:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(hook)
    supervisor._save()


def test_resuming_a_finished_run_makes_its_report_again(unbroken, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    with reports(True):
        main(["train", "--resume", "--out", str(out)])
    assert (out / "report.html").is_file()
    (out / "report.html").unlink()
    main(["report", str(out), "--images", "4", "--levels", "1"])
    assert (out / "report.html").is_file()
    assert_same(unbroken, out)


def test_what_cannot_change_halfway(unbroken, tmp_path, capsys):
    resume = ["train", "--resume", "--out", unbroken]
    message = mistake(capsys, *resume, "--batch-size", "16")
    assert "has --batch-size 8, which cannot change to 16" in message
    assert "has --layers 1" in mistake(capsys, *resume, "--layers", "2")
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
    endless = ["--overwrite", "--save-every", "1h", "--steps", 10**6]
    child = command(*COMMAND, "--out", out, *endless, log=tmp_path / "log")
    staged = out / ".new-run"
    wait_for(staged, 0)
    time.sleep(0.5)
    child.send(signal.SIGINT)
    assert child.join() == 130
    assert "is untouched" in child.message
    assert "so far" not in child.message
    assert snapshot(out) == before


def test_a_replacement_cut_short_is_brought_to_its_end(tmp_path):
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
