"""The images that the commands read a model on."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from nelbo import NelboError, Pixels
from nelbo.data import load_data
from nelbo.data.mentions import mention
from nelbo.formats import Pipeline, files, notes, scheduler
from nelbo.runs.run_data import check_data, data_for_run, load_with_data
from nelbo.samplers import default_sampler


def test_the_files_of_a_run_are_read_once(run_path, monkeypatch):
    read, read_json = [], files.read_json
    for module in (files, notes, scheduler):
        monkeypatch.setattr(module, "read_json", lambda f: (read.append(f.name), read_json(f))[1])
    pipeline = Pipeline.open(run_path)
    source = check_data(pipeline, None, "test", images=5, seed=3)
    assert (source.name, source.split, source.own) == ("digits", "test", True)
    model, data = load_with_data(pipeline, source, torch.device("cpu"))
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


def images_of(folder, classes, *, trained_on, known=3):
    """The images of a folder of these classes, for a class-conditional run."""
    for i, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for j in range(2):
            Image.new("RGB", (8, 8), (i, j, 0)).save(folder / name / f"{j}.png")
    run = SimpleNamespace(path="runs/classes", notes={"label_names": trained_on})
    model = SimpleNamespace(shape=(3, 8, 8), data=Pixels(256), num_classes=known)
    return data_for_run(check_data(run, str(folder), "all"), model)


@pytest.mark.parametrize("more", [(), ("ant",), ("ant", "zebra")], ids=["fewer", "before", "more"])
def test_classes_are_those_of_the_run_by_their_names(tmp_path, capsys, more):
    """In a folder with fewer or more of them the same number is another class."""
    data = images_of(tmp_path, ["dog", "cat", *more], trained_on=["bird", "cat", "dog"])
    assert data.label_names == ("bird", "cat", "dog")
    place = {"cat": 1, "dog": 2}
    assert data.labels.tolist() == [place.get(name.split("/")[0], -1) for name in data.names]
    mention(data)
    message = " ".join(capsys.readouterr().err.split())
    if more:
        assert f"{2 * len(more)} of {len(data)} images are of classes that the model" in message
        assert f"({', '.join(more)}; it has bird, cat, dog)" in message
    else:
        assert not message


def test_images_of_no_class_of_the_run_have_none(tmp_path):
    """So that no figure is taken for one that is conditioned on a class."""
    data = images_of(tmp_path, ["ant", "bee"], trained_on=["bird", "cat", "dog"])
    assert data.labels is None
    assert data.label_names == ()
    assert "4 of 4 images are of classes that the model does not have" in data.notes[-1]


def test_more_classes_than_a_model_without_their_names_has(tmp_path):
    fewer = images_of(tmp_path / "a", ["cat", "dog"], trained_on=[])
    assert fewer.labels.unique().tolist() == [0, 1]
    assert "names of its 3 classes: cat, dog are taken as the first 2 of them" in fewer.notes[-1]
    numbered = images_of(tmp_path / "n", ["2", "1"], trained_on=[])
    assert numbered.labels.tolist() == [int(name.split("/")[0]) for name in numbered.names]
    with pytest.raises(NelboError, match="has 3 classes, and the model of runs/classes 2, whose"):
        images_of(tmp_path / "b", ["ant", "cat", "dog"], trained_on=[], known=2)
    unconditional = images_of(tmp_path / "c", ["ant", "cat"], trained_on=[], known=0)
    assert unconditional.label_names == ("ant", "cat")
