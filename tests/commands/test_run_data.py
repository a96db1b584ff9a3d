"""The images that the commands read a model on."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image

from nelbo.commands.run_data import check_data, load_with_data
from nelbo.data import load_data
from nelbo.formats import Pipeline, files, scheduler
from nelbo.samplers import default_sampler


def test_the_files_of_a_run_are_read_once(run_path, monkeypatch):
    read, read_json = [], files.read_json
    for module in (files, scheduler):
        monkeypatch.setattr(module, "read_json", lambda f: (read.append(f.name), read_json(f))[1])
    pipeline = Pipeline.open(run_path)
    source = check_data(pipeline, None, "test")
    assert (source.name, source.split, source.own) == ("digits", "test", True)
    model, data = load_with_data(pipeline, source, torch.device("cpu"), images=5, seed=3)
    assert model.num_levels == 20
    assert pipeline.usual_sampler(4) == default_sampler(model.schedule, 4)
    assert data.names == load_data("digits", "test").subset(5, 3).names
    assert sorted(read) == ["model_index.json", "nelbo.json", "scheduler_config.json"]


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
    pipeline = Pipeline.open(copy)
    source = check_data(pipeline, str(folder), "all")
    assert not source.own
    _, data = load_with_data(pipeline, source, torch.device("cpu"), quiet=quiet)
    assert len(data) == 1
    assert ("broken.png" in capsys.readouterr().err) != quiet
