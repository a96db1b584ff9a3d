"""What is written is on the disk before it is what it is called."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch

from nelbo import NelboError
from nelbo.base.files import atomic_file
from nelbo.formats import write_json
from nelbo.runs.checkpoints import Checkpoint, Checkpoints


@pytest.fixture
def events(monkeypatch):
    """What is flushed, with its size, and what is renamed, in order."""
    found: list[tuple[str, str, int]] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def watched_fsync(handle):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        found.append(("flush", path.name, path.stat().st_size if path.is_file() else -1))
        fsync(handle)

    def watched_rename(self, target):
        found.append(("rename", Path(target).name, -1))
        return rename(self, target)

    def watched_replace(self, target):
        found.append(("rename", Path(target).name, -1))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    monkeypatch.setattr(Path, "replace", watched_replace)
    return found


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="what a descriptor is of is read in /proc"
)


def checkpoint(step: int) -> Checkpoint:
    tensors = {"model": {"w": torch.arange(5.0)}, "optimizer": {"m": torch.ones(3)}}
    return Checkpoint(step, tensors, {"seconds": 1.0})


def test_a_checkpoint_is_flushed_file_by_file_before_it_is_named(events, tmp_path):
    path = Checkpoints(tmp_path / "training").save(checkpoint(7))
    named = events.index(("rename", "step-000007", -1))
    before, after = events[:named], events[named + 1 :]
    sizes = {file.name: file.stat().st_size for file in path.iterdir()}
    assert sizes.keys() == {"model.safetensors", "optimizer.safetensors", "manifest.json"}
    for name, size in sizes.items():
        assert ("flush", name, size) in before  # the whole of it
    # The names in it, and then its own.
    assert any(what == "flush" and "step-000007" in name for what, name, _ in before)
    assert ("flush", "training", -1) in after


@pytest.mark.parametrize("write", ["atomic_file", "json"])
def test_a_file_is_flushed_before_it_takes_the_place_of_another(write, events, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text("old")
    if write == "json":
        write_json(path, {"a": 1})
    else:
        with atomic_file(path) as temporary:
            temporary.write_text("new" * 100)
    (first, name, size), renamed, last = events
    assert first == "flush"
    assert name.startswith(".settings.json.")
    assert size == path.stat().st_size
    assert renamed == ("rename", "settings.json", -1)
    assert last == ("flush", tmp_path.name, -1)


def test_what_fails_is_not_named(events, tmp_path):
    def write() -> None:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        write()
    assert list(tmp_path.iterdir()) == []
    assert events == []


def test_an_old_checkpoint_that_cannot_be_removed_ends_no_training(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path, keep=1)
    kept.save(checkpoint(1))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nelbo.runs.checkpoints.shutil.rmtree", refuse)
    with pytest.warns(UserWarning, match="cannot remove older checkpoints .*Permission denied"):
        kept.save(checkpoint(2))
    assert kept.load(2).step == 2
    kept.path(3).mkdir()
    with pytest.raises(NelboError, match=r"step-000003, which lies ahead of step 2"):
        kept.discard_after(2)


def test_nothing_is_said_where_they_can(tmp_path):
    kept = Checkpoints(tmp_path, keep=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.save(checkpoint(1))
        kept.save(checkpoint(2))
    assert kept.steps() == [2]
