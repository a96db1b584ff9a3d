"""Models that are not square, and data of other sizes than a model's, through the commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import nelbo
from nelbo.cli import main
from tests.faults.test_mistakes import mistake

pytestmark = pytest.mark.usefixtures("unreported")

TINY = ["--widths", "8", "16", "--levels", "12", "--batch-size", "8", "--evaluate-images", "3"]
TINY += ["--threads", "1", "--precision", "fp32"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes") / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(12):
        pixels = random.integers(0, 256, (20, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def run(pictures):
    out = pictures.parent / "run"
    main(["train", str(pictures), "--size", "8x12", "--steps", "3", *TINY, "--out", str(out)])
    return out


def read(capsys, *arguments) -> dict:
    capsys.readouterr()
    main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def test_a_model_that_is_not_square_in_every_command(pictures, run, tmp_path, capsys):
    assert nelbo.load(run).shape == (1, 8, 12)
    assert read(capsys, "evaluate", run, "--levels", "2", "--split", "all")["examples"] == 12
    few = ["--images", "2", "--tolerance", "0.1"]
    assert read(capsys, "likelihood", run, *few, "--split", "all")["examples"] == 2
    assert read(capsys, "fit", run, "--images", "4", "--levels", "4", "--out", tmp_path / "fit")
    assert read(capsys, "rank", run, "--levels", "2", "--out", tmp_path / "rank")
    main(["sample", str(run), "-n", "1", "--out", str(tmp_path / "s.png"), "--scale", "1"])
    assert Image.open(tmp_path / "s.png").size[0] > Image.open(tmp_path / "s.png").size[1]
    edit = ["edit", str(run), "--image", str(pictures / "00.png"), "--steps", "4"]
    main([*edit, "--out", str(tmp_path / "e.png")])
    assert Image.open(tmp_path / "e.png").size == (12, 8)
    main(["train", str(pictures), "--start-from", str(run), "--steps", "1", *TINY[5:],
          "--out", str(tmp_path / "again")])  # fmt: skip
    assert nelbo.load(tmp_path / "again").shape == (1, 8, 12)


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "--levels", "2"),
        ("likelihood", "--images", "2", "--levels", "2", "--tolerance", "0.1"),
        ("fit", "--levels", "3", "--images", "3", "--out", "OUT"),
        ("rank", "--levels", "2", "--out", "OUT"),
        ("report", "--images", "2", "--levels", "2"),
    ],
)
def test_other_sizes_need_resize_in_every_command(pictures, run, tmp_path, capsys, command):
    others = tmp_path / "others"
    others.mkdir()
    for path in pictures.iterdir():
        (others / path.name).write_bytes(path.read_bytes())
    name, *options = (str(tmp_path / "out") if word == "OUT" else word for word in command)
    arguments = [name, run, "--data", others, *options]
    message = mistake(capsys, *arguments)
    assert "00.png is 20×40, the model takes 8×12: give --resize" in message
    main([*map(str, arguments), "--resize"])


def test_crops_are_remembered_by_the_run(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    crops = ["--size", "8", "--crops", "3"]
    main(["train", str(pictures), *crops, "--steps", "2", *TINY, "--out", str(out)])
    notes = json.loads((out / "nelbo.json").read_text())
    assert notes["source"] == f"{pictures}?crops=3"
    train = read(capsys, "evaluate", out, "--split", "train", "--levels", "2")["examples"]
    test = read(capsys, "evaluate", out, "--split", "test", "--levels", "2")["examples"]
    shown = read(capsys, "data", pictures, *crops)["splits"]
    assert (train, test) == (shown["train"], shown["test"])
    plain = read(capsys, "data", pictures, "--size", "8")["splits"]
    assert shown["train"] == 3 * plain["train"]
    assert shown["test"] == plain["test"]
    main(["train", "--resume", "--out", str(out), "--steps", "3"])
    assert "cannot change" in mistake(
        capsys, "train", pictures, "--crops", "4", "--resume", "--out", out, "--steps", "4"
    )
