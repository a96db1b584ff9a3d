"""nelbo rank, classify and compare, and evaluations that go on where they broke."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nelbo
from nelbo.chain.estimate import share_interval
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.evidence.bound_store import BoundStore
from nelbo.evidence.evaluation import evaluate
from tests.children import group
from tests.commands.conftest import TINY
from tests.conftest import reports
from tests.data.pictures import write
from tests.faults.test_mistakes import mistake


def run_json(capsys, *arguments):
    capsys.readouterr()
    main([str(argument) for argument in (*arguments, "--json")])
    return json.loads(capsys.readouterr().out)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def conditional(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("conditional") / "run"
    with reports(False):
        main(["train", "digits", "--out", str(path), "--steps", "12", "--class-conditional", *TINY])
    return path


def test_rank_puts_noise_before_digits(run_path, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    digits = load_data("digits", "test").images[:12, 0]
    for i, image in enumerate(digits):
        Image.fromarray((image * 15).numpy()).save(folder / f"digit{i:02d}.png")
    model = nelbo.load(run_path)
    # The model has 17 pixel levels and pictures 256, which is reported.
    content = json.loads((run_path / "nelbo.json").read_text())
    copy = tmp_path / "run"
    shutil.copytree(run_path, copy)
    content["data"]["levels"] = 256
    (copy / "nelbo.json").write_text(json.dumps(content))
    noise = torch.randint(256, (8, 8), generator=torch.Generator().manual_seed(0)).byte()
    Image.fromarray(noise.numpy()).save(folder / "noise.png")
    out = tmp_path / "ranking"
    printed = run_json(capsys, "rank", copy, "--data", folder, "--out", out, "--levels", 19)
    assert printed["images"] == 13
    assert printed["most_surprising"][0]["name"] == "noise.png"
    rows = table(out / "ranking.csv")
    assert [int(row["rank"]) for row in rows] == list(range(1, 14))
    bits = [float(row["bits_per_dim"]) for row in rows]
    assert bits == sorted(bits, reverse=True)
    assert sum(bits) / 13 == pytest.approx(printed["bits_per_dim"], rel=1e-4)
    # As evaluate warns of an error that is not to be relied on.
    far = (np.array(bits) - np.mean(bits)) ** 2
    few, dominant = printed["warnings"][0], printed["warnings"][-1]
    assert few.startswith("13 images are few: evaluate at least 20")
    assert far[0] / far.sum() > 0.2
    assert f"the image noise.png has {far[0] / far.sum():.0%} of the variance" in dominant
    main(["rank", str(copy), "--data", str(folder), "--out", str(out), "--levels", "19"])
    assert f"warning: {few}" in " ".join(capsys.readouterr().err.split())
    page = (out / "ranking.html").read_text()
    assert "noise.png" in page
    assert page.count('alt="where the bits of ') == 12  # six on each end
    assert model.num_levels == 20


def test_classify_prints_accuracy_and_cost(conditional, tmp_path, capsys):
    out = tmp_path / "classes.csv"
    printed = run_json(capsys, "classify", conditional, "--images", 20, "--draws", 12, "--out", out)
    rows = table(out)
    assert len(rows) == printed["images"] == 20
    # 20 of all, drawn at random by the seed
    drawn = load_data("digits", "test").subset(20, 0)
    assert [row["name"] for row in rows] == list(drawn.names)
    labels = drawn.labels.tolist()
    right = [row["class"] == str(label) for row, label in zip(rows, labels, strict=True)]
    assert printed["accuracy"] == pytest.approx(sum(right) / 20)
    assert printed["interval"] == pytest.approx(share_interval(sum(right), 20))
    assert [row["class"] for row in printed["classified"]] == [row["class"] for row in rows]
    assert {row["caption"] for row in printed["classified"]} == {None}
    assert {row["caption"] for row in rows} == {""}
    calls = [int(row["calls"]) for row in rows]
    assert printed["calls_per_image"] == pytest.approx(sum(calls) / 20)
    assert max(calls) <= 12 * 10
    assert printed["calls_for_all_classes_and_levels"] == 200


def test_classify_prints_the_first_images_and_their_classes(conditional, capsys):
    options = ["classify", str(conditional), "--images", "12", "--draws", "4"]
    found = run_json(capsys, *options)["classified"]
    assert len(found) == 12
    main(options)
    shown = capsys.readouterr().out.splitlines()
    # No more than every class at every level, and then more.
    (cost,) = (line for line in shown if "network evaluations" in line)
    assert re.fullmatch(
        r"[\d.]+ network evaluations an image; each of 10 classes once at each of 20 levels would "
        r"be 200",
        cost,
    )
    rows = [line.split() for line in shown if line.strip().startswith("digits #")]
    expected = [
        [*row["name"].split(), row["class"], *([] if row["certain"] else ["?"])] for row in found
    ]
    assert rows == expected[:10]
    assert any("... and 2 more; --out FILE writes all" in line for line in shown)
    main([*options[:2], "--images", "2", "--draws", "30", "--margin", "1000"])
    assert (
        "300.0 network evaluations an image, more than the 200 of each of 10 classes once at each "
        "of 20 levels: fewer --draws take fewer"
    ) in capsys.readouterr().out


@pytest.mark.usefixtures("ends_with_the_model")
def test_compare_tells_two_models_apart(run_path, tmp_path, capsys):
    main(["train", "digits", "--out", str(tmp_path / "b"), "--steps", "40", *TINY])
    arguments = ["compare", "digits", "--runs", run_path, tmp_path / "b", "--images", 40]
    printed = run_json(capsys, *arguments, "--levels", 10)
    first, second = (run["bits_per_dim"] for run in printed["runs"])
    assert printed["difference"] == pytest.approx(first - second)
    assert printed["difference"] > 0
    assert printed["p_value"] < 0.01
    assert printed["first_wins"] < 0.5
    same = run_json(capsys, "compare", "digits", "--runs", run_path, run_path, "--images", 10)
    assert same["difference"] == 0
    assert same["p_value"] == 1
    main([str(argument) for argument in arguments])
    assert "b explains the images better" in capsys.readouterr().out


def test_an_evaluation_that_was_cut_short_goes_on(run_path, tmp_path, capsys, monkeypatch):
    options = ["evaluate", run_path, "--levels", 5, "--images", 40, "--batch-size", 8]
    whole = run_json(capsys, *options, "--out", tmp_path / "whole")
    assert whole["bits_per_dim"] == run_json(capsys, *options)["bits_per_dim"]

    class Killed(Exception):
        pass

    saved, calls = BoundStore._save, []

    def save(self, stage, index, bound):
        if len(calls) == 3:
            raise Killed
        calls.append(index)
        saved(self, stage, index, bound)

    monkeypatch.setattr(BoundStore, "_save", save)
    broken = [str(argument) for argument in (*options, "--out", tmp_path / "broken")]
    with pytest.raises(Killed):
        main(broken)
    monkeypatch.setattr(BoundStore, "_save", lambda *a: (calls.append(a[2]), saved(*a)))
    capsys.readouterr()
    assert run_json(capsys, *broken)["bits_per_dim"] == whole["bits_per_dim"]
    assert calls == [0, 1, 2, 3, 4]  # none twice
    rows = table(tmp_path / "broken" / "images.csv")
    assert [row["name"] for row in rows] == list(load_data("digits", "test").subset(40, 0).names)


def test_images_are_drawn_at_random_by_the_seed(run_path, tmp_path, capsys):
    """The same of a seed whatever reads them, so that comparisons are paired."""
    digits = load_data("digits", "test")
    common = ["--images", 12, "--levels", 2]
    for seed in (0, 7):
        out = tmp_path / str(seed)
        seeded = [*common, "--seed", seed]
        run_json(capsys, "evaluate", run_path, *seeded, "--out", out)
        names = [row["name"] for row in table(out / "images.csv")]
        assert names == list(digits.subset(12, seed).names)
        assert names != list(digits.names[:12])
        # Of every level, which no command draws otherwise than another.
        every = ["--images", 12, "--seed", seed, "--levels"]
        pair = run_json(capsys, "compare", "digits", "--runs", run_path, run_path, *every, 19)
        alone = run_json(capsys, "evaluate", run_path, *every, "all")
        mean = alone["bits_per_dim"]["total"]["mean"]
        assert [run["bits_per_dim"] for run in pair["runs"]] == pytest.approx([mean, mean])
        flow = run_json(capsys, "likelihood", run_path, *seeded, "--tolerance", 0.1)
        assert flow["examples"] == 12
    # What is kept is of these images, and not mistaken for that of others.
    message = mistake(capsys, "evaluate", run_path, *common, "--seed", 7, "--out", tmp_path / "0")
    assert "holds an evaluation" in message


def test_rounds_go_on_too(run_path, tmp_path, capsys):
    options = ["evaluate", run_path, "--error", 0.05, "--images", 30, "--out", tmp_path / "out"]
    first = run_json(capsys, *options)
    files = sorted((tmp_path / "out" / "bounds").glob("*.safetensors"))
    assert {file.name[:2] for file in files} >= {"00", "01"}
    files[-1].unlink()
    assert run_json(capsys, *options)["bits_per_dim"] == first["bits_per_dim"]


def test_two_processes_evaluate_as_one(run_path, tmp_path, capsys):
    options = ["evaluate", run_path, "--error", 0.1, "--images", 40, "--batch-size", 8]
    alone = run_json(capsys, *options)
    command = [*map(str, options), "--out", str(tmp_path / "shared"), "--json"]
    first, second = group(2, main, command, logs=tmp_path)
    assert second.join() == first.join() == 0, first.message
    assert "{" not in second.message
    together = json.loads(first.message[first.message.index("{") :])
    assert together["calls"] == alone["calls"]
    mean, expected = (r["bits_per_dim"]["total"]["mean"] for r in (together, alone))
    assert mean == pytest.approx(expected, rel=1e-5)


def test_batches_have_noise_of_their_own(run_path):
    model, data = nelbo.load(run_path), load_data("digits", "test").take(slice(24))

    def read(**options):
        generator = torch.Generator().manual_seed(3)
        return list(evaluate(model, data, levels=3, batch_size=8, generator=generator, **options))

    first, again = read(), read()
    assert all(torch.equal(a.elbo, b.elbo) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].levels, first[1].levels)


def test_mistakes(run_path, conditional, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    run_json(capsys, "evaluate", run_path, "--levels", 2, "--images", 8, "--out", out)
    message = mistake(capsys, "evaluate", run_path, "--levels", 3, "--images", 8, "--out", out)
    assert "holds an evaluation with levels 2, not 3" in message
    message = mistake(capsys, "evaluate", conditional, "--levels", 2, "--images", 8, "--out", out)
    assert "holds an evaluation with weights" in message
    (out / "bounds" / "00-000000.safetensors").write_bytes(b"broken")
    message = mistake(capsys, "evaluate", run_path, "--levels", 2, "--images", 8, "--out", out)
    assert "is damaged" in message
    assert "remove it" in message
    assert "no classes" in mistake(capsys, "classify", run_path)
    assert "--levels must be at least 1" in mistake(
        capsys, "rank", run_path, "--out", out, "--levels", 0
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "a directory to share" in mistake(capsys, "evaluate", run_path)
    message = mistake(capsys, "evaluate", run_path, "--out", out, "--precision", "auto")
    assert "need one precision" in message


@pytest.mark.usefixtures("ends_with_the_model")
def test_compare_takes_pictures_as_the_run_did_that_was_trained_on_them(tmp_path, capsys):
    for folder, step in (("mine", 8), ("yours", 5)):
        for i in range(20):
            write(tmp_path / folder / f"{i}.png", step * i, side=20)
    for name, folder, size in (("a", "mine", 8), ("b", "yours", 8), ("c", "mine", 12)):
        options = ["--steps", "2", "--size", str(size), "--evaluate-images", "2", *TINY]
        data = str(tmp_path / folder)
        main(["train", data, "--out", str(tmp_path / name), "--sample-images", "4", *options])
    few = ["--split", "all", "--levels", "2"]
    a, b, c = (tmp_path / name for name in "abc")
    for folder, own, other in (("mine", a, b), ("yours", b, a)):
        printed = run_json(capsys, "compare", tmp_path / folder, "--runs", a, b, *few)
        assert printed["images"] == 20
        seen = len(load_data(str(tmp_path / folder), "train").names)
        assert f"{own} was trained on {seen} of these 20 images" in printed["warnings"][0]
        assert not any(str(other) in line for line in printed["warnings"])
    message = mistake(capsys, "compare", tmp_path / "mine", "--runs", a, c, *few)
    assert f"images of one size: {a} takes 1×8×8 and {c} takes 1×12×12" in message
    assert "Evaluating" not in message
    (tmp_path / "yours").rename(tmp_path / "theirs")  # which neither was trained on
    message = mistake(capsys, "compare", tmp_path / "theirs", "--runs", a, b, *few)
    assert "give --resize" in message
