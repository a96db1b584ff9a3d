"""The images that the commands read a model on."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image

from nelbo.commands.run_data import check_run, load_with_data
from nelbo.data import load_data
from nelbo.runs.run_directory import RunDirectory


def test_what_a_run_was_trained_on_is_read_once(run_path, monkeypatch):
    read, notes = [], RunDirectory.notes
    monkeypatch.setattr(RunDirectory, "notes", lambda run: (read.append(run), notes(run))[1])
    source = check_run(str(run_path), None, "test")
    assert (source.name, source.split, source.own) == ("digits", "test", True)
    model, data = load_with_data(source, torch.device("cpu"), images=5, seed=3)
    assert model.num_levels == 20
    assert data.names == load_data("digits", "test").subset(5, 3).names
    assert len(read) == 1


@pytest.mark.parametrize("quiet", [False, True])
def test_what_cannot_be_read_is_named(run_path, tmp_path, capsys, quiet):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("L", (8, 8)).save(folder / "whole.png")
    (folder / "broken.png").write_bytes(b"no picture")
    copy = tmp_path / "run"
    shutil.copytree(run_path, copy)
    content = json.loads((copy / "nelbo.json").read_text())
    content["data"]["levels"] = 256
    (copy / "nelbo.json").write_text(json.dumps(content))
    source = check_run(str(copy), str(folder), "all")
    assert not source.own
    _, data = load_with_data(source, torch.device("cpu"), quiet=quiet)
    assert len(data) == 1
    assert ("broken.png" in capsys.readouterr().err) != quiet
