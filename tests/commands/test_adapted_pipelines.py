"""The commands on pipelines through diffusers, and what they report of an embedded guidance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nelbo
from nelbo.cli import main
from tests.commands.test_evidence import run_json
from tests.faults.test_mistakes import mistake
from tests.formats import tiny_flows
from tests.formats.tiny_flows import BUILDERS

PROMPTS = ("red cat", "dog")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures") / "pictures"
    folder.mkdir()
    rows = []
    for i in range(4):
        values = random.normal((40, 200)[i % 2], 25, (16, 16, 3)).clip(0, 255)
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": PROMPTS[i % 2]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def stable(tmp_path_factory) -> Path:
    """A Stable Diffusion 3 with the scale of its decoder."""
    path = tmp_path_factory.mktemp("stable")
    model = nelbo.load(tiny_flows.stable_diffusion_3(path).path)
    model.decoder_scale = 0.3
    nelbo.save(model, path / "saved")
    return path / "saved"


@pytest.fixture(scope="module")
def distilled(tmp_path_factory) -> Path:
    return tiny_flows.flux(tmp_path_factory.mktemp("flux"), distilled=True).path


@pytest.fixture(scope="module")
def on(pictures) -> list[str]:
    return ["--data", str(pictures), "--split", "all"]


def test_evaluate_rank_and_compare(stable, on, pictures, tmp_path, capsys):
    printed = run_json(capsys, "evaluate", stable, *on, "--levels", 2)
    assert printed["conditioned_on"] == "caption"
    assert np.isfinite(printed["bits_per_dim"]["total"]["mean"])
    main(["rank", str(stable), *on, "--levels", "2", "--out", str(tmp_path / "ranked")])
    assert len((tmp_path / "ranked" / "ranking.csv").read_text().splitlines()) == 5
    runs = ["--runs", str(stable), str(stable), "--split", "all", "--levels", 2]
    compared = run_json(capsys, "compare", pictures, *runs)
    assert compared["difference"] == 0


def test_classify_and_sample(stable, on, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    options = ["--prompt-file", tmp_path / "prompts.txt", "--draws", 4]
    found = run_json(capsys, "classify", stable, *on, *options)
    assert found["images"] == 4
    assert found["embedded_guidance"] is None
    out = tmp_path / "grid.png"
    asked = ["--prompt", "red cat", "--negative", "dog", "--guidance", "3", "--steps", "2"]
    main(["sample", str(stable), "-n", "2", *asked, "--out", str(out)])
    assert Image.open(out).size[0] >= 32


@pytest.fixture(scope="module", params=[*BUILDERS][1:])
def another(request, tmp_path_factory) -> Path:
    """One of the other pipelines, with the scale of its decoder."""
    path = BUILDERS[request.param](tmp_path_factory.mktemp(request.param)).path
    file = path / "nelbo.json"
    notes = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(notes | {"decoder_scale": 0.3}))
    return path


@pytest.mark.slow  # here of two of them; their bounds are those of tests/formats/test_adapted.py
def test_evaluate_another(another, on, capsys):
    printed = run_json(capsys, "evaluate", another, *on, "--resize", "--levels", 1, "--images", 2)
    assert printed["conditioned_on"] == "caption"
    assert np.isfinite(printed["bits_per_dim"]["total"]["mean"])


@pytest.mark.slow
def test_the_other_commands_of_another(another, on, pictures, tmp_path, capsys):
    few = ["--resize", "--images", "2"]
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    asked = ["--prompt-file", tmp_path / "prompts.txt", "--draws", 2]
    assert run_json(capsys, "classify", another, *on, *few, *asked)["images"] == 2
    ranked = tmp_path / "ranked"
    main(["rank", str(another), *on, *few, "--levels", "1", "--out", str(ranked)])
    assert len((ranked / "ranking.csv").read_text().splitlines()) == 3
    runs = ["--runs", another, another, "--split", "all", "--levels", 1]
    assert run_json(capsys, "compare", pictures, *runs, *few)["difference"] == 0
    asked = ["--prompt", "red cat", "--negative", "dog", "--guidance", "3", "--steps", "2"]
    main(["sample", str(another), "-n", "1", *asked, "--out", str(tmp_path / "grid.png")])
    assert Image.open(tmp_path / "grid.png").size[0] >= 16


def test_export_writes_a_pipeline(stable, tmp_path, capsys):
    main(["export", str(stable), "--out", str(tmp_path / "out")])
    assert nelbo.load(tmp_path / "out").decoder_scale == 0.3
    assert "StableDiffusion3Pipeline" in (tmp_path / "out" / "README.md").read_text()


def test_the_output_names_the_embedded_guidance(distilled, on, capsys):
    asked = ["evaluate", str(distilled), *on, "--levels", "1", "--images", "2"]
    found = [run_json(capsys, *asked, *more) for more in ([], ["--embedded-guidance", 1.5])]
    assert [one["embedded_guidance"] for one in found] == [3.5, 1.5]
    totals = [one["bits_per_dim"]["total"]["mean"] for one in found]
    assert totals[0] != totals[1]
    main(asked)
    assert "bits/dim given the caption, at the embedded guidance 3.5" in capsys.readouterr().out


def test_guidance_that_is_not_embedded_is_refused(stable, on, capsys):
    asked = ["evaluate", stable, *on, "--levels", 1, "--embedded-guidance", 2]
    assert "takes no embedded guidance" in mistake(capsys, *asked)
