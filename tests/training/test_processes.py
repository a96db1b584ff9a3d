"""Two processes, or a batch in parts, take the steps of one process on the whole batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nelbo import NelboError
from nelbo.training.processes import Processes
from tests.training.test_trainer import SMALL, trainer

# Dropout's masks depend on how a batch is cut; everything else is drawn for the whole batch.
MODEL = ["--widths", "8", "16", "--levels", "6", "--dropout", "0", "--class-conditional"]
LEVELS = ["--level-sampler", "importance", "--input-perturbation", "0.1", "--horizontal-flip"]
OPTIONS = ["--batch-size", "15", "--steps", "12", "--precision", "fp32", "--warmup-steps", "3"]
BRIEF = ["--evaluate-images", "4", "--evaluate-levels", "1", "--threads", "1"]
COMMAND = ["-m", "nelbo", "train", "digits", *MODEL, *OPTIONS, *LEVELS, *BRIEF]


def launch(*arguments: str, out: Path, fsdp: bool = False) -> subprocess.Popen:
    """Two processes of this machine's CPU."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [sys.executable, *launcher, *COMMAND, "--out", str(out), *arguments],
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_FSDP": str(fsdp).lower()},
        text=True,
        start_new_session=True,
    )


def curve(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    from nelbo.cli import main

    out = tmp_path_factory.mktemp("alone") / "run"
    main([*COMMAND[2:], "--out", str(out), "--validate-every", "6"])
    return out


@pytest.mark.parametrize("fsdp", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_learn_as_one(alone, tmp_path, fsdp):
    out = tmp_path / "run"
    process = launch("--validate-every", "6", out=out, fsdp=fsdp)
    _, message = process.communicate(timeout=200)
    assert process.returncode == 0, message
    assert "2 processes" in message
    mine, theirs = curve(out), curve(alone)
    assert [row["step"] for row in mine] == [row["step"] for row in theirs] == [6, 10, 12]
    for a, b in zip(mine, theirs, strict=True):
        for name in ("loss", "bits_per_dim", "gradient_norm", "learning_rate"):
            assert a[name] == pytest.approx(b[name], rel=2e-4)
        if "validation_bits_per_dim" in b:
            key = "validation_bits_per_dim"
            assert a[key] == pytest.approx(b[key], rel=2e-4)
    assert (out / "report.html").is_file()
    assert (out / "samples" / "step-000012.png").is_file()


@pytest.mark.slow
def test_one_of_two_dies_and_the_run_resumes(tmp_path):
    out = tmp_path / "run"
    process = launch("--steps", "1000000", "--save-every", "0.5s", out=out)
    from nelbo.training.checkpoints import Checkpoints

    checkpoints = Checkpoints(out / "training")
    deadline = time.monotonic() + 200
    while max(checkpoints.steps(), default=0) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    listing = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True, check=True
    )
    os.kill(max(int(pid) for pid in listing.stdout.split()), signal.SIGKILL)
    _, message = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "because another one is gone" in message or "stopped at step" in message
    saved = checkpoints.newest()[0].step
    from nelbo.cli import main

    main(["train", "--resume", "--out", str(out), "--steps", str(saved + 2)])
    assert curve(out)[-1]["step"] == saved + 2


@pytest.mark.parametrize("objective", ["bound", "hybrid", "sigmoid"])
def test_a_batch_in_parts_is_the_whole_batch(objective):
    from dataclasses import replace

    model = replace(SMALL, dropout=0.0, levels=6)
    options = {"steps": 8, "objective": objective, "batch_size": 15, "input_perturbation": 0.1}
    options |= {"level_sampler": "importance", "horizontal_flip": True}
    whole = trainer(model, **options)
    parts = trainer(model, gradient_accumulation=4, **options)
    for a, b in zip(whole.run(), parts.run(), strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
        assert a.bits_per_dim == pytest.approx(b.bits_per_dim, rel=1e-4)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-3)
    assert min(whole.state().tensors["level_sampler"]["seen"]) >= 10  # no longer uniform


def test_every_image_is_computed_once():
    groups = [Processes(torch.device("cpu"), rank, 3).parts(23, 2) for rank in range(3)]
    seen = [i for parts in groups for part in parts for i in range(23)[part.slice]]
    assert seen == list(range(23))
    with pytest.raises(NelboError, match=r"batch_size 5 is too small.*at least 6"):
        Processes(torch.device("cpu"), 0, 3).parts(5, 2)


def test_recomputed_activations_give_the_same_steps():
    plain, recomputed = trainer(steps=4), trainer(steps=4, checkpoint_activations=True)
    for a, b in zip(plain.run(), recomputed.run(), strict=True):
        assert a.loss == b.loss
        assert a.gradient_norm == b.gradient_norm
