"""The commands end to end: what they write, print and return."""

from __future__ import annotations

import json
import math
import shutil

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import nelbo
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.diffusion import level_profile
from nelbo.diffusion.profile import PROFILE_FILE
from tests.commands.conftest import TINY
from tests.conftest import reports
from tests.faults.test_mistakes import mistake


def run_json(capsys, *arguments: str) -> dict:
    main([*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def test_train_writes_a_complete_run(run_path):
    names = {p.name for p in run_path.iterdir()}
    assert {
        "model_index.json",
        "unet",
        "scheduler",
        "nelbo.json",
        "metrics.jsonl",
        "evaluation.json",
        "samples",
        "report.html",
    } <= names
    assert not [name for name in names if name.startswith(".")]  # no temporary files are left
    notes = json.loads((run_path / "nelbo.json").read_text())
    assert notes["source"] == "digits"
    assert notes["data"] == {"kind": "pixels", "levels": 17}
    assert notes["trained"]["steps"] == 12
    rows = [json.loads(line) for line in (run_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 12]
    assert all(math.isfinite(row["bits_per_dim"]) for row in rows)
    assert Image.open(run_path / "samples" / "final.png").size[0] > 64


def test_the_end_draws_as_many_samples_as_asked_for(run_path, tmp_path, capsys):
    run, again = tmp_path / "run", tmp_path / "again.png"
    shutil.copytree(run_path, run)
    end = ["train", "--resume", "--out", str(run), "--evaluate-images", "3"]
    main([*end, "--sample-images", "3", "--sample-steps", "2"])
    drawn = ["-n", "3", "--steps", "2"]
    main(["sample", str(run), *drawn, "--out", str(again)])
    assert again.read_bytes() == (run / "samples" / "final.png").read_bytes()
    for option in ("--sample-images", "--sample-steps"):
        assert f"{option} must be at least 1, got 0" in mistake(capsys, *end, option, "0")


def test_evaluate_reads_the_same_bound_as_the_library(run_path, capsys):
    printed = run_json(capsys, "evaluate", str(run_path), "--levels", "all", "--seed", "3")
    model = nelbo.load(run_path)
    digits = load_data("digits", "test")
    with torch.no_grad():
        x_0 = model.data.to_network(digits.images)
        summary = model.elbo(x_0, generator=torch.Generator().manual_seed(99)).mean()
    assert printed["levels_per_image"] == printed["levels_of_chain"] == 19
    assert printed["split"] == "test"
    total = printed["bits_per_dim"]["total"]
    # Other noise, so that they agree to their Monte Carlo errors, which are small.
    own = summary.bits_per_dim
    error = math.hypot(total["monte_carlo_error"], own.monte_carlo_error)
    assert error < 0.01 * own.mean
    assert abs(total["mean"] - own.mean) < 4 * error
    assert total["standard_error"] == pytest.approx(own.standard_error, rel=0.1)
    assert total["monte_carlo_error"] == pytest.approx(own.monte_carlo_error, rel=0.2)
    terms = printed["nats"]
    for name, expected in summary.costs.items():
        error = 4 * math.hypot(terms[name]["monte_carlo_error"], expected.monte_carlo_error)
        assert abs(terms[name]["mean"] - expected.mean) <= error + 1e-4 * abs(expected.mean)
    # The end of the run had time for a few images, whose own error may be poorly known.
    recorded = json.loads((run_path / "evaluation.json").read_text())["test"]
    found = recorded["bits_per_dim"]["total"]
    least = 0.1 * own.mean / math.sqrt(recorded["examples"])
    assert abs(found["mean"] - own.mean) < 5 * max(found["standard_error"], least)


def test_evaluate_prints_a_table_with_every_term(run_path, capsys):
    main(["evaluate", str(run_path), "--images", "20", "--levels", "3"])
    shown = capsys.readouterr().out
    for words in ("reconstruction", "prior matching", "score matching", "bits/dim", "±"):
        assert words in shown


def test_evaluate_stops_at_the_error_asked_for(run_path, capsys):
    printed = run_json(capsys, "evaluate", str(run_path), "--images", "30", "--error", "0.2")
    total = printed["bits_per_dim"]["total"]
    assert 0 < total["monte_carlo_error"] <= 0.2
    assert printed["calls_per_image"] == printed["calls"] / 30
    assert printed["calls_for_all_levels"] == 30 * 20
    # the pilot's calls are counted too
    assert printed["calls"] > 30 * (printed["levels_per_image"] + 2)
    main(["evaluate", str(run_path), "--images", "30", "--error", "0.2"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{printed['calls']:,} network evaluations" in shown
    whole, drawn = total["standard_error"], min(total["standard_error"], total["monte_carlo_error"])
    assert whole**2 == pytest.approx(total["image_error"] ** 2 + drawn**2)
    assert (
        f"{total['mean']:.3f} ± {total['standard_error']:.3f} bits/dim, of which images "
        f"{total['image_error']:.3f} and Monte Carlo {drawn:.3f}; "
        f"95% interval {total['interval'][0]:.3f} to {total['interval'][1]:.3f}" in shown
    )


def test_a_level_profile_in_the_run_saves_the_pilot(run_path, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(run_path, run)
    model = nelbo.load(run)
    x_0 = model.data.to_network(load_data("digits", "train").images[:8])
    with torch.no_grad():
        level_profile(model, x_0).save(run / PROFILE_FILE)
    printed = run_json(capsys, "evaluate", str(run), "--images", "40", "--error", "0.2")
    again = run_json(capsys, "evaluate", str(run_path), "--images", "40", "--error", "0.2")
    assert printed["calls"] % 40 == 0
    assert again["calls"] % 40 != 0


def test_sample_writes_a_grid_and_repeats_with_its_seed(run_path, tmp_path, capsys):
    arguments = ["sample", str(run_path), "-n", "6", "--steps", "5"]
    grids = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = tmp_path / "new" / f"{name}.png"
        result = run_json(capsys, *arguments, "--out", str(out), "--seed", seed)
        assert result["images"] == 6
        assert result["images_per_second"] > 0
        grids.append(np.asarray(Image.open(out)))
    assert np.array_equal(grids[0], grids[1])
    assert not np.array_equal(grids[0], grids[2])


def test_run_loads_and_samples_in_diffusers(run_path):
    pipeline = diffusers.DDPMPipeline.from_pretrained(run_path)
    assert type(pipeline.unet) is diffusers.UNet2DModel
    generator = torch.Generator().manual_seed(0)
    theirs = pipeline(
        batch_size=3, generator=generator, num_inference_steps=20, output_type="np"
    ).images
    assert theirs.shape == (3, 8, 8, 1)
    # the same pictures as nelbo draws from the same noise
    model = nelbo.load(run_path)
    ours = model.sample(3, generator=torch.Generator().manual_seed(0))
    ours = (ours.clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_class_conditional_run(tmp_path, capsys):
    out = tmp_path / "labels"
    result = run_json(
        capsys,
        *["train", "digits", "--out", str(out), "--steps", "5", "--class-conditional", *TINY],
        *["--evaluate-images", "30"],
    )
    assert set(result["evaluation"]) == {"train", "test", "samples"}
    model = nelbo.load(out)
    assert model.num_classes == 10
    sample = ["sample", str(out), "-n", "2", "--out", str(tmp_path / "x.png")]
    main([*sample, "--label", "7", "--guidance", "2"])
    # labels go to the images in turn, and say how many there are
    capsys.readouterr()
    in_turn = run_json(capsys, "sample", *sample[1:2], *sample[4:], "--label", "3", "7", "7")
    assert in_turn["images"] == 3
    with pytest.raises(SystemExit):
        main([*sample, "--label", "10"])
    expected = "--label must be a number in 0..9 or one of 0, 1, 2, 3, 4 and 5 more, got 10"
    assert expected in " ".join(capsys.readouterr().err.split())


def test_own_pictures_from_folder_to_bound(tmp_path, capsys):
    generator = np.random.default_rng(0)
    for i in range(24):
        colours = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        (tmp_path / "mine").mkdir(exist_ok=True)
        Image.fromarray(colours).save(tmp_path / "mine" / f"{i}.png")
    (tmp_path / "mine" / "bad.jpg").write_text("oops")
    result = run_json(
        capsys,
        *["train", str(tmp_path / "mine"), "--out", str(tmp_path / "run"), "--size", "8"],
        *["--steps", "3", *TINY],
    )
    held_out = load_data(str(tmp_path / "mine"), "test", size=8)
    assert result["evaluation"]["test"]["examples"] == len(held_out)
    printed = run_json(capsys, "evaluate", str(tmp_path / "run"), "--split", "all", "--levels", "2")
    assert printed["examples"] == 24
    assert printed["skipped"][0].startswith("bad.jpg")


def test_runs_among_the_pictures_that_they_were_trained_on(tmp_path, capsys, monkeypatch):
    """As after `cd pictures`: what runs draw is no data, and `.` is what they were trained on."""
    generator = np.random.default_rng(0)
    for i in range(8):
        colours = generator.integers(0, 256, (12, 9, 3), dtype=np.uint8)
        Image.fromarray(colours).save(tmp_path / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    options = ["--size", "8", "--steps", "2", *TINY, "--evaluate-images", "2"]
    run_json(capsys, "train", ".", "--out", "a", *options)
    with reports(False):
        run_json(capsys, "train", ".", "--out", "b", *options)
    assert (tmp_path / "a" / "samples" / "final.png").is_file()
    assert run_json(capsys, "data", ".")["images"] == 8
    with reports(False):
        run_json(capsys, "train", "--resume", "--out", "a", "--steps", "3")
    compared = run_json(
        capsys, "compare", ".", "--runs", "a", "b", "--split", "all", "--levels", "2"
    )
    assert compared["images"] == 8
    among = "lies among the pictures of"
    assert f"--out samples.png {among} {tmp_path} and would become one of them" in mistake(
        capsys, "sample", "a"
    )
    for arguments in (
        ("sample", "a", "--out", "a/x.png", "--files", "drawn"),
        ("sample", "a", "--out", "a/x.png", "--animation", "x.gif"),
        ("edit", "a", "--image", "0.png", "--out", "1.png", "--resize"),
        ("data", ".", "--sheet", "sheet.png"),
    ):
        assert among in mistake(capsys, *arguments)
    assert run_json(capsys, "data", ".", "--sheet", "a/sheet.png")["images"] == 8
    drawn = ["--steps", "1", "--out", "a/x.png", "--files", "a/files"]
    assert run_json(capsys, "sample", "a", "-n", "1", *drawn)["images"] == 1
    assert run_json(capsys, "data", ".")["images"] == 8
    assert not (tmp_path / "samples.png").exists()


def test_data_of_other_channels_than_the_model(run_path, tmp_path, capsys):
    commands = [
        ("evaluate", run_path, "--data", "emoji"),
        ("rank", run_path, "--data", "emoji", "--out", tmp_path / "ranking"),
        ("classify", run_path, "--data", "emoji"),
        ("likelihood", run_path, "--data", "emoji"),
        ("fit", run_path, "--data", "emoji"),
        ("report", run_path, "--data", "emoji"),
        ("compare", "emoji", "--runs", run_path, run_path),
    ]
    for arguments in commands:
        message = mistake(capsys, *arguments)
        assert "emoji has images of 3 channels (RGB)" in message
        assert f"the model of {run_path} takes 1 channel (grey)" in message
        assert "--channels 3" in message


def test_results_go_to_standard_output_and_json_has_it_to_itself(run_path, tmp_path, capfd):
    few = ["--images", "4", "--levels", "5"]
    brief = ["--evaluate-images", 4, "--sample-images", 2, "--sample-steps", 2]
    copy = tmp_path / "run"
    shutil.copytree(run_path, copy)
    commands = {
        "bits/dim": ("evaluate", copy, *few),
        "ranking.html": ("rank", copy, "--split", "test", *few, "--out", tmp_path / "r"),
        "paired over": ("compare", "digits", "--runs", copy, run_path, *few),
        "difference": ("likelihood", copy, "--tolerance", 0.1, *few),
        "evenly spaced": ("fit", copy, *few),
        "8×8": ("data", "digits", "--sheet", tmp_path / "sheet.png"),
        "score matching": ("report", copy, *few),
        "prior matching": ("train", "--resume", "--out", copy, *brief),
        "Exported": ("export", copy, "--out", tmp_path / "exported"),
    }
    for words, arguments in commands.items():
        command = [str(argument) for argument in arguments]
        capfd.readouterr()
        main(command)
        assert words in capfd.readouterr().out
    shutil.rmtree(tmp_path / "exported")
    main([*command, "--json"])
    assert isinstance(json.loads(capfd.readouterr().out), dict)


@pytest.mark.parametrize("seed", ["-1", str(2**63)])
def test_seeds_that_are_none(run_path, tmp_path, capsys, seed):
    for arguments in (
        ("evaluate", run_path),
        ("rank", run_path, "--out", tmp_path / "r"),
        ("fit", run_path),
        ("report", run_path),
        ("compare", "digits", "--runs", run_path, run_path),
        ("sample", run_path),
    ):
        assert "--seed must lie in 0..2^63 − 1" in mistake(capsys, *arguments, "--seed", seed)
