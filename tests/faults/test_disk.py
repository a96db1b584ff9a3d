"""A disk that fills up while training saves."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import nelbo
from nelbo.cli import main
from nelbo.runs.checkpoints import Checkpoints
from tests.faults.conftest import COMMAND, STEPS
from tests.faults.test_killed import assert_same
from tests.faults.test_mistakes import mistake

pytestmark = pytest.mark.usefixtures("unreported")


@pytest.fixture
def disk(tmp_path) -> Path:
    """A file system of its own, of two megabytes."""
    where = tmp_path / "disk"
    where.mkdir()
    if os.geteuid() != 0:
        pytest.skip("a small tmpfs takes root to mount")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", where], capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {made.stderr.strip()}")
    yield where
    # Lazily: weights that were loaded from it may still be mapped.
    subprocess.run(["umount", "--lazy", where], check=True)


def test_a_disk_that_is_full_ends_training_and_loses_nothing(unbroken, disk, capsys):
    """Every checkpoint is kept, until there is no room; more room, and the run goes on."""
    out = disk / "run"
    options = ["--save-every", "0.001s", "--keep-checkpoints", "1000", "--steps", str(STEPS)]
    message = mistake(capsys, *COMMAND, "--out", out, *options)
    assert "No space left on device" in message
    checkpoints = Checkpoints(out / "training")
    last, problems = checkpoints.newest()
    assert not problems
    assert 0 < last.step < STEPS
    if "cannot write the checkpoint" in message:  # else the model or the metrics came first
        assert f"the checkpoint of step {last.step} is intact" in message
    assert "--resume goes on from" in message
    assert nelbo.load(out).shape == (1, 8, 8)
    # Still no room: it says so again, and leaves everything as it was.
    message = mistake(capsys, "train", "--resume", "--out", out)
    assert "cannot" in message
    assert checkpoints.newest()[0].step >= last.step
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    main(["train", "--resume", "--out", str(out)])
    assert_same(unbroken, out)
