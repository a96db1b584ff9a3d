"""A folder of pictures that changes between the break of a run and its resumption."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nelbo import NelboError
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.runs.checkpoints import Checkpoints
from nelbo.runs.run_directory import RunDirectory
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.task import PixelTask
from nelbo.training.order import changed_images
from nelbo.training.state import state_of
from nelbo.training.stopping import StopRequest
from nelbo.training.supervisor import Supervisor
from nelbo.training.trainer import Trainer
from tests.data.pictures import write
from tests.faults.test_data import damage
from tests.faults.test_mistakes import mistake
from tests.training.plain import Plain

pytestmark = pytest.mark.usefixtures("unreported")


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Thirty pictures to train on, one for validation, one for test."""
    for i in range(30):
        write(tmp_path / "pictures" / "train" / f"{i:02}.png", 8 * i)
    write(tmp_path / "pictures" / "validation" / "v.png", 3)
    write(tmp_path / "pictures" / "test" / "a.png")
    return tmp_path / "pictures"


def supervised(pictures: Path, run: RunDirectory, **notes: object) -> Supervisor:
    torch.manual_seed(0)
    data = load_data(str(pictures), "train", size=8)
    model = build_model(ModelConfig(widths=(8,), levels=4), data)
    config = TrainingConfig(steps=6, batch_size=4, save_every="0.001s")
    trainer = Trainer(PixelTask(model, data, config))
    return Supervisor(trainer, Plain(), run, notes, StopRequest())


def repaint_held_out(pictures: Path, name: str = "test/a.png") -> None:
    """Another picture to read the bound on, under its own name."""
    path = pictures / name
    before = path.stat()
    write(path, 77)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def remove(pictures: Path) -> None:
    (pictures / "train" / "03.png").unlink()
    (pictures / "train" / "17.png").unlink()


def add(pictures: Path) -> None:
    write(pictures / "train" / "15a.png", 90)


def both(pictures: Path) -> None:
    remove(pictures)
    add(pictures)


def repaint(pictures: Path) -> None:
    """Another picture under its own name, a moment later."""
    path = pictures / "train" / "05.png"
    before = path.stat()
    write(path, 8 * 6)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def spoil(pictures: Path) -> None:
    damage(pictures / "train" / "11.png", "cut")


def test_what_changed_is_counted_and_nothing_goes_on_silently(pictures, tmp_path):
    run = RunDirectory(tmp_path / "run").make()
    steps = supervised(pictures, run).run()
    for _ in range(4):
        next(steps)
    checkpoints = Checkpoints(run.training)
    before = checkpoints.newest()[0]
    assert supervised(pictures, run).resume() == []
    for change, counts in (
        (repaint, "0 added, 0 removed and 1 changed since then, 30 now, 30 before"),
        (spoil, "0 added, 1 removed and 1 changed since then, 29 now"),
        (remove, "0 added, 3 removed and 1 changed since then, 27 now"),
        (add, "1 added, 3 removed and 1 changed since then, 28 now"),
    ):
        change(pictures)
        with pytest.raises(NelboError, match=f"not those .* {counts}.*--accept-changed-data"):
            supervised(pictures, run).resume()
    assert checkpoints.newest()[0].step == before.step

    accepting = supervised(pictures, run)
    (note,) = accepting.resume(accept_changed_data=True)
    assert counts in note
    assert accepting.trainer.step == before.step
    list(accepting.run())
    assert accepting.finished
    # The run is now one of what is there.
    assert supervised(pictures, run).resume() == []


def test_other_classes_are_not_taken_for_those_of_the_same_number(pictures, tmp_path):
    run = RunDirectory(tmp_path / "run").make()
    list(supervised(pictures, run, label_names=["cat", "dog"]).run())
    assert supervised(pictures, run, label_names=["cat", "dog"]).resume() == []
    for now, named in (
        (["ant", "cat", "dog"], "ant, cat, dog"),
        (["dog", "cat"], "dog"),
        ([], "none"),
    ):
        with pytest.raises(NelboError, match=f"classes cat, dog, .* have {named}.*--start-classes"):
            supervised(pictures, run, label_names=now).resume(accept_changed_data=True)


def test_what_is_only_touched_or_decoded_again_has_not_changed(pictures, tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run").make()
    list(supervised(pictures, run).run())
    for path in (pictures / "train").iterdir():
        os.utime(path, (1, 1))
    assert supervised(pictures, run).resume() == []
    monkeypatch.setenv("NELBO_CACHE", str(tmp_path / "emptied"))
    assert supervised(pictures, run).resume() == []


def test_a_checkpoint_that_knows_names_alone(pictures, tmp_path):
    run = RunDirectory(tmp_path / "run").make()
    trained = supervised(pictures, run)
    list(trained.run())
    state = state_of(trained.trainer)
    names = {"keys": state.tensors["data"]["keys"][:, 0].contiguous()}
    progress = {**Checkpoints(run.training).newest()[0].progress}
    Checkpoints(run.training).save(
        replace(state, tensors={**state.tensors, "data": names}, progress=progress)
    )
    repaint(pictures)
    assert supervised(pictures, run).resume() == []
    remove(pictures)
    with pytest.raises(NelboError, match="0 added and 2 removed since then, 28 now, 30 before"):
        supervised(pictures, run).resume()


def test_keys_are_of_names_and_pixels(pictures):
    data = load_data(str(pictures), "train", size=8)
    in_memory = replace(data, images=data.images.clone(), pixel_keys=None)
    assert data.pixel_keys is not None
    assert torch.equal(data.keys, in_memory.keys)
    some = torch.tensor([7, 2])
    assert torch.equal(data.take(some).keys, data.keys[some])
    assert torch.equal(in_memory.take(some).keys, data.keys[some])
    assert len(set(data.keys.flatten().tolist())) == 2 * len(data)
    digest = hashlib.blake2b(data.images[4].numpy().tobytes(), digest_size=8).digest()
    assert int(data.keys[4, 1]) == int.from_bytes(digest, "big", signed=True)
    assert not torch.equal(data.resize(4, 4).keys[:, 1], data.keys[:, 1])


def test_sets_that_differ():
    keys = torch.tensor([[5, 50], [3, 30], [9, 90]])
    assert changed_images(keys, keys.clone()) is None
    assert changed_images(keys, keys.flip(0)) == "the same 3 in another order"
    assert changed_images(keys, torch.tensor([[3, 31], [5, 50], [8, 90]])) == (
        "1 added, 1 removed and 1 changed since then, 3 now, 3 before"
    )
    # One of two under the same name.
    twice = torch.tensor([[5, 50], [5, 51], [9, 90]])
    assert changed_images(twice, torch.tensor([[5, 50], [5, 52], [9, 90]])) == (
        "0 added, 0 removed and 1 changed since then, 3 now, 3 before"
    )
    names = keys[:, 0]
    assert changed_images(names, torch.tensor([[5, 1], [3, 2], [9, 3]])) is None
    assert changed_images(names, keys.flip(0)) == "the same 3 in another order"
    assert changed_images(names, torch.tensor([[5, 50], [3, 30], [3, 31]])) == (
        "0 added and 1 removed since then, 3 now, 3 before"
    )


def test_on_the_command_line(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    brief = ["--widths", "8", "--levels", "4", "--size", "8", "--evaluate-images", "1"]
    fixed = ["--batch-size", "4", "--threads", "1", "--precision", "fp32", "--evaluate-levels", "1"]
    main(["train", str(pictures), "--out", str(out), "--steps", "2", *brief, *fixed])
    both(pictures)
    resume = ["train", "--resume", "--out", str(out), "--steps", "4"]
    counts = "1 added, 2 removed and 0 changed since then, 29 now, 30 before"
    assert counts in mistake(capsys, *resume)
    main([*resume, "--accept-changed-data"])
    assert f"{counts}; it goes on with what is there now" in " ".join(
        capsys.readouterr().err.split()
    )
    assert Checkpoints(out / "training").steps()[-1] == 4


def test_a_bound_on_pictures_that_changed_places_is_marked(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    brief = ["--widths", "8", "--levels", "4", "--size", "8", "--evaluate-images", "1"]
    fixed = ["--batch-size", "4", "--threads", "1", "--precision", "fp32", "--evaluate-levels", "1"]
    main(["train", str(pictures), "--out", str(out), "--steps", "2", *brief, *fixed])

    def notes(*more: str) -> str:
        capsys.readouterr()
        main(["evaluate", str(out), "--levels", "1", "--device", "cpu", *more])
        return " ".join(capsys.readouterr().err.split())

    # Names alone do not matter, only which pictures were trained on.
    (pictures / "train" / "05.png").rename(pictures / "train" / "zz.png")
    assert "no longer" not in notes()
    shutil.move(pictures / "train" / "07.png", pictures / "test" / "07.png")
    marked = "are no longer those that"
    assert marked in notes()
    assert marked not in notes("--split", "train")
    away = pictures.rename(pictures.parent / "away")
    message = mistake(capsys, "train", pictures, "--resume", "--out", out, "--steps", "4")
    assert "unknown data" in message
    assert "halfway" not in message
    away.rename(pictures)


def test_images_held_out(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    brief = ["--widths", "8", "--levels", "4", "--size", "8", "--evaluate-images", "1"]
    fixed = ["--batch-size", "4", "--threads", "1", "--precision", "fp32", "--evaluate-levels", "1"]
    main(["train", str(pictures), "--out", str(out), "--steps", "2", *brief, *fixed])
    resume = ["train", "--resume", "--out", str(out), "--steps"]
    main([*resume, "3"])
    repaint_held_out(pictures)
    message = mistake(capsys, *resume, "4")
    counts = "0 added, 0 removed and 1 changed since then, 1 now, 1 before"
    assert f"error: the test images are not those of before: {counts}" in message
    assert "trained on" not in message
    remove(pictures)
    message = mistake(capsys, *resume, "4")
    assert "trained on: 0 added, 2 removed and 0 changed" in message
    assert f"the test images are not those of before: {counts}" in message
    main([*resume, "4", "--accept-changed-data"])
    notes = " ".join(capsys.readouterr().err.split())
    assert f"before: {counts}; it goes on with what is there now" in notes
    main([*resume, "5"])  # the run is now one of what is there
    assert "since then" not in capsys.readouterr().err


def test_validation_images(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    brief = ["--widths", "8", "--levels", "4", "--size", "8", "--evaluate-images", "1"]
    fixed = ["--batch-size", "4", "--threads", "1", "--precision", "fp32", "--evaluate-levels", "1"]
    main(["train", str(pictures), "--out", str(out), "--steps", "2", *brief, *fixed])
    splits = RunDirectory(out).notes["splits"]
    assert splits == {"train": 30, "validation": 1, "test": 1}
    repaint_held_out(pictures, "validation/v.png")
    message = mistake(capsys, "train", "--resume", "--out", str(out), "--steps", "3")
    counts = "0 added, 0 removed and 1 changed since then, 1 now, 1 before"
    assert f"error: the validation images are not those of before: {counts}" in message


def test_a_run_from_before_there_was_a_validation_split(pictures, tmp_path, capsys):
    """It goes on with the images that it has, in their order, and is read on its test images."""
    out = tmp_path / "run"
    brief = ["--widths", "8", "--levels", "4", "--size", "8", "--evaluate-images", "1"]
    fixed = ["--batch-size", "4", "--threads", "1", "--precision", "fp32", "--evaluate-levels", "1"]
    main(["train", str(pictures), "--out", str(out), "--steps", "2", *brief, *fixed])
    # As such a run has it: two splits, of which declared validation is for test.
    file = out / "nelbo.json"
    notes = json.loads(file.read_text())
    del notes["splits"]
    file.write_text(json.dumps(notes))
    checkpoint, _ = Checkpoints(out / "training").newest()
    keys = {
        kind: load_data(str(pictures), split, size=8, validation=False).keys
        for kind, split in (("keys", "train"), ("held_out", "test"))
    }
    Checkpoints(out / "training").save(
        replace(checkpoint, tensors={**checkpoint.tensors, "data": keys})
    )
    resume = ["train", "--resume", "--out", str(out), "--steps", "4", "--validate-every", "1"]
    capsys.readouterr()
    main(resume)
    said = " ".join(capsys.readouterr().err.split())
    assert "since then" not in said
    assert "begun before there was a validation split, and trains on the images" in said
    assert "--validate-every reads test images, as it began" in said
    assert "splits" not in RunDirectory(out).notes
    assert RunDirectory(out).notes["training_images"] == 30
    main(["evaluate", str(out), "--levels", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["examples"] == 2
    assert "trained before there was a validation split" in mistake(
        capsys, "evaluate", str(out), "--split", "validation"
    )
    # With a tenth of train/ for validation, as a new run has it, its images would have changed.
    for path in (pictures / "validation").iterdir():
        path.unlink()
    (pictures / "validation").rmdir()
    main([*resume[:-3], "5", "--accept-changed-data"])
    assert RunDirectory(out).notes["training_images"] == 30


def test_a_checkpoint_that_does_not_know_the_images_held_out(pictures, tmp_path):
    run = RunDirectory(tmp_path / "run").make()
    list(supervised(pictures, run).run())
    repaint_held_out(pictures)
    later = supervised(pictures, run)
    later.held_out = {"test": load_data(str(pictures), "test", size=8).keys}
    assert later.resume() == []
