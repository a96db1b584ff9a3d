"""nelbo sample --quality, and image files beside the bits of every command."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import nelbo
from nelbo.cli import main
from nelbo.commands.sample_quality import Compared
from nelbo.data import load_data
from nelbo.evidence.file_sizes import file_sizes
from nelbo.evidence.sample_quality import frechet_distance


def run_json(capsys, *arguments) -> dict:
    capsys.readouterr()
    main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def test_quality_is_that_of_the_images_that_were_drawn(run_path, tmp_path, capsys):
    files = tmp_path / "files"
    common = ["sample", run_path, "-n", "40", "--steps", "4", "--out", tmp_path / "x.png"]
    found = run_json(capsys, *common, "--files", files, "--quality")["quality"]
    drawn = np.stack([np.asarray(Image.open(path)) for path in sorted(files.iterdir())])
    samples = torch.from_numpy(drawn / 255 * 2 - 1).flatten(1)
    train = load_data("digits", "train")
    real = train.images.flatten(1).double() / 8 - 1
    _, vectors = np.linalg.eigh(np.cov(real.numpy().T))
    directions = torch.from_numpy(vectors[:, -32:].copy())
    first = found["spaces"][0]
    assert first["space"] == "32 principal components"
    both = ((x - real.mean(0)) @ directions for x in (samples, real))
    expected = frechet_distance(*both)
    # The files have 255 levels, the model 17, which is a difference of rounding alone.
    assert first["samples"]["frechet"] == pytest.approx(expected, rel=0.02)
    assert first["samples"]["images"] == first["real"]["images"] == 40
    assert first["samples"]["reference"] == len(train)
    assert first["real"]["frechet"] < first["samples"]["frechet"]
    assert found["nearest_training"]["searched"] == len(train)
    main([*map(str, common), "--quality"])
    shown = capsys.readouterr().out
    assert "40 real" in shown
    assert f"{first['samples']['precision']:.3f}" in shown
    assert "held-out picture" in shown


def test_labels_are_drawn_as_often_as_the_images_have_them():
    data = load_data("digits", "train")
    few = data.take(torch.nonzero((data.labels == 3) | (data.labels == 8)).flatten())
    compared = Compared(few, None, None)
    labels = compared.labels(400, 10, seed=0)
    assert set(labels.tolist()) == {3, 8}
    share = float((few.labels == 3).double().mean())
    assert float((labels == 3).double().mean()) == pytest.approx(share, abs=0.1)
    assert torch.equal(labels, compared.labels(400, 10, seed=0))
    assert compared.labels(4, 0, seed=0) is None
    # Images without a label say nothing of how often the classes are.
    assert Compared(replace(few, labels=None), None, None).labels(4, 10, seed=0) is None
    unknown = torch.full((len(few),), -1)
    assert Compared(replace(few, labels=unknown), None, None).labels(4, 10, seed=0) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--features", "nowhere"], "--features is for --quality"),
        (["--data", "digits"], "--data is for --quality"),
        (["--quality", "-n", "1"], "--quality needs at least 2 images, got -n 1"),
        (["--quality", "--features", "nowhere"], "nowhere is no vision model"),
    ],
)
def test_mistakes_are_explained(run_path, tmp_path, capsys, options, message):
    out = tmp_path / "x.png"
    with pytest.raises(SystemExit) as stopped:
        main(["sample", str(run_path), "--steps", "2", *options, "--out", str(out)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_pipeline_without_data_asks_for_it(run_path, tmp_path, capsys):
    nelbo.save(nelbo.load(run_path), tmp_path / "model")
    out = ["--out", str(tmp_path / "x.png")]
    with pytest.raises(SystemExit):
        main(["sample", str(tmp_path / "model"), "--quality", *out])
    assert "give --data" in capsys.readouterr().err


def test_files_stand_beside_the_bits_of_every_command(run_path, tmp_path, capsys):
    data = load_data("digits", "test").subset(12, 0)
    expected = file_sizes(data.images, 17).to_json()
    common = ["--images", "12", "--levels", "2"]
    assert run_json(capsys, "evaluate", run_path, *common)["files"] == expected
    ranked = run_json(capsys, "rank", run_path, "--split", "test", "--no-maps", *common,
                      "--out", tmp_path / "ranking")  # fmt: skip
    assert ranked["files"] == expected
    both = ["digits", "--runs", run_path, run_path]
    assert run_json(capsys, "compare", *both, *common)["files"] == expected
    flow = ["--tolerance", "0.1"]
    assert run_json(capsys, "likelihood", run_path, *common, *flow)["files"] == expected
    main(["evaluate", str(run_path), *common])
    shown = capsys.readouterr().out
    webp = expected["formats"]["WebP"]
    assert f"lossless WebP {webp['without_headers']:.3f}" in shown
    assert f"lossless WebP {webp['in_one_file']:.3f}" in shown
    assert "4.087 as they are" in shown


def test_the_end_of_training_states_files_and_samples(run_path):
    evaluation = json.loads((run_path / "evaluation.json").read_text())
    assert evaluation["test"]["files"]["of"] == evaluation["test"]["examples"]
    assert evaluation["samples"]["spaces"][0]["samples"]["images"] > 1
    notes = json.loads((run_path / "nelbo.json").read_text())
    assert notes["hardware"]
    assert notes["trained"]["precision"] in ("fp32", "bf16")
    assert notes["trained"]["threads"] >= 1
    page = (run_path / "report.html").read_text(encoding="utf-8")
    for expected in ("passes over the data", "computed on", "Beside image files"):
        assert expected in page
