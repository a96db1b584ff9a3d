"""nelbo compare --budget on one's own pictures: colour, one class, a plain border, too large."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nelbo.cli import main
from nelbo.families import autoregressive

SIDE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty colour pictures in a folder of one class, whose borders are all the same."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "only").mkdir()
    random = np.random.default_rng(0)
    for i in range(40):
        pixels = np.full((SIDE, SIDE, 3), 200, dtype=np.uint8)
        pixels[2:-2, 2:-2] = random.integers(256, size=3)
        Image.fromarray(pixels).save(root / "only" / f"{i}.png")
    return root


def test_families_that_take_them_are_fitted_and_others_refuse(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(autoregressive, "LONGEST", 100)
    families = ("ppca", "markov", "lds", "rnn")
    main(
        ["compare", str(folder), "--size", str(SIDE), "--families", *families, "--budget", "0.1s",
         "--seeds", "1", "--samples", "8", "--threads", "1", "--json", "--out", str(tmp_path)]
    )  # fmt: skip
    found: dict[str, Any] = {
        one["family"]: one for one in json.loads(capsys.readouterr().out)["families"]
    }
    for name in ("ppca", "markov", "lds"):
        assert 0 < found[name]["bits_per_dim"] < 16, name  # constant pixels spoil no density
    # Three channels are three values of a pixel.
    assert found["rnn"]["notes"].startswith("failed: RNN reads an image value by value, at most")
    assert "these have 192: use smaller images, or grey ones" in found["rnn"]["notes"]
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert page.count("PPCA, sample") == 8
    assert "reads an image value by value" in page


def test_a_budget_too_small_for_a_pass_is_in_the_table(tmp_path, capsys):
    main(
        ["compare", "digits", "--families", "vae", "--budget", "0.01s", "--images", "4",
         "--seeds", "1", "--samples", "4", "--threads", "1", "--out", str(tmp_path)]
    )  # fmt: skip
    shown = " ".join(capsys.readouterr().out.split())
    assert "the budget was too small for one pass over the images (0.05)" in shown


def test_too_few_pictures(folder, tmp_path, capsys):
    few = tmp_path / "few"
    few.mkdir()
    for i, file in enumerate(sorted((folder / "only").iterdir())[:3]):
        (few / f"{i}.png").write_bytes(file.read_bytes())
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(few), "--budget", "1s", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "a comparison needs at least" in error
    assert "sort them into folders train, validation and test" in error
    assert "Traceback" not in error
