"""A folder of pictures that changes between the break of a run and its resumption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nelbo import NelboError
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.training.build import build_model
from nelbo.training.checkpoints import Checkpoints
from nelbo.training.config import ModelConfig, TrainingConfig
from nelbo.training.order import changed_images
from nelbo.training.run_directory import RunDirectory
from nelbo.training.stopping import StopRequest
from nelbo.training.supervisor import Supervisor
from nelbo.training.trainer import Trainer
from tests.data.pictures import write
from tests.faults.test_data import damage
from tests.faults.test_mistakes import mistake


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Thirty pictures to train on, one held out."""
    for i in range(30):
        write(tmp_path / "pictures" / "train" / f"{i:02}.png", 8 * i)
    write(tmp_path / "pictures" / "test" / "a.png")
    return tmp_path / "pictures"


def supervised(pictures: Path, run: RunDirectory) -> Supervisor:
    torch.manual_seed(0)
    data = load_data(str(pictures), "train", size=8)
    model = build_model(ModelConfig(widths=(8,), levels=4), data)
    trainer = Trainer(model, data, TrainingConfig(steps=6, batch_size=4, save_every="0.001s"))
    return Supervisor(trainer, run, {}, StopRequest())


def remove(pictures: Path) -> None:
    (pictures / "train" / "03.png").unlink()
    (pictures / "train" / "17.png").unlink()


def add(pictures: Path) -> None:
    write(pictures / "train" / "15a.png", 90)


def both(pictures: Path) -> None:
    remove(pictures)
    add(pictures)


def spoil(pictures: Path) -> None:
    damage(pictures / "train" / "11.png", "cut")


def test_what_changed_is_counted_and_nothing_goes_on_silently(pictures, tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    steps = supervised(pictures, run).run()
    for _ in range(4):
        next(steps)
    checkpoints = Checkpoints(run.training)
    before = checkpoints.newest()[0]
    assert supervised(pictures, run).resume() == []
    for change, counts in (
        (spoil, "0 added and 1 removed since then, 29 now, 30 before"),
        (remove, "0 added and 3 removed since then, 27 now"),
        (add, "1 added and 3 removed since then, 28 now"),
    ):
        change(pictures)
        with pytest.raises(NelboError, match=f"not those .* {counts}.*--accept-changed-data"):
            supervised(pictures, run).resume()
    assert checkpoints.newest()[0].step == before.step

    accepting = supervised(pictures, run)
    (note,) = accepting.resume(accept_changed_data=True)
    assert counts in note.text
    assert accepting.trainer.step == before.step
    list(accepting.run())
    assert accepting.finished
    # The run is now one of what is there.
    assert supervised(pictures, run).resume() == []


def test_sets_that_differ():
    keys = torch.tensor([5, 3, 9])
    assert changed_images(keys, keys.clone()) is None
    assert changed_images(keys, keys.flip(0)) == "the same 3 in another order"
    assert changed_images(keys, torch.tensor([5, 3, 3])) == (
        "0 added and 1 removed since then, 3 now, 3 before"
    )


def test_on_the_command_line(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    brief = ["--widths", "8", "--levels", "4", "--size", "8", "--evaluate-images", "1"]
    fixed = ["--batch-size", "4", "--threads", "1", "--precision", "fp32", "--evaluate-levels", "1"]
    main(["train", str(pictures), "--out", str(out), "--steps", "2", *brief, *fixed])
    both(pictures)
    resume = ["train", "--resume", "--out", str(out), "--steps", "4"]
    counts = "1 added and 2 removed since then, 29 now, 30 before"
    assert counts in mistake(capsys, *resume)
    main([*resume, "--accept-changed-data"])
    assert f"{counts}; it goes on with what is there now" in " ".join(
        capsys.readouterr().err.split()
    )
    assert Checkpoints(out / "training").steps()[-1] == 4
