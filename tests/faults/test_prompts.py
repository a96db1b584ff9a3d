"""Bad prompts and captions on the command line: what is wrong is said, without a traceback."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from nelbo.cli import main
from tests.commands.conftest import TINY
from tests.faults.test_mistakes import mistake
from tests.formats import tiny


@pytest.fixture(scope="module")
def stable(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("stable")
    tiny.stable_diffusion(path)
    return path / "pipeline"


def draw(*arguments: object) -> None:
    # Trailing, as the single step is to start where the noise is.
    main(["sample", *map(str, arguments), "-n", "2", "--steps", "1", "--spacing", "trailing"])


def test_of_a_long_prompt_what_is_dropped_is_shown_and_the_rest_is_drawn(stable, tmp_path, capsys):
    out = tmp_path / "x.png"
    long = " ".join(["cat"] * 10 + ["dog", "red"])  # of 12 tokens two are for the ends
    draw(stable, "--prompt", long, "--out", out)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("note:") == 1
    assert "is longer than 12 tokens; dropped: 'dog red" in said
    assert out.is_file()
    draw(stable, "--prompt", long, "--prompt", f"{long} red", "--out", out)
    assert "(and the end of 1 other)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--interpolate", "3", "--prompt", "cat"], "one prompt to another: expected 2, got 1"),
        (["--interpolate", "1", "--prompt", "cat"], "--interpolate must be at least 2, got 1"),
        (["--interpolate", "3", "--label", "1"], "expected 2, got 0"),
    ],
)
def test_interpolation_needs_two_prompts(stable, tmp_path, capsys, options, message):
    assert message in mistake(capsys, "sample", stable, "--out", tmp_path / "x.png", *options)


@pytest.mark.parametrize("kind", ["pixels", "latents"])
@pytest.mark.parametrize(
    "options",
    [
        ["--prompt", "cat"],
        ["--prompt", ""],
        ["--prompt", "cat", "--guidance", "3", "--negative", "dog"],
        ["--interpolate", "3", "--prompt", "cat", "--prompt", "dog"],
    ],
)
def test_a_prompt_for_a_model_without_text(run_path, tmp_path, capsys, kind, options):
    path = run_path
    if kind == "latents":
        path = tmp_path / "model"
        tiny.unconditional(path)
    message = mistake(capsys, "sample", path, "--out", tmp_path / "x.png", *options)
    assert f"--prompt: {path} is a model without a text encoder" in message


def test_a_missing_extra_is_named(stable, tmp_path, capsys, monkeypatch):
    for name in ("transformers", "tokenizers"):
        monkeypatch.setitem(sys.modules, name, None)
    install = "needs an optional extra: pip install 'nelbo[text]'"
    out = tmp_path / "x.png"
    assert install in mistake(capsys, "sample", stable, "--prompt", "cat", "--out", out)
    assert install in mistake(capsys, "evaluate", stable, "--data", "digits")
    autoencoder = stable / "vae"
    arguments = ["--model", "latent", "--autoencoder", autoencoder, "--size", "16", "--steps", "1"]
    folder = pictures(tmp_path / "pictures", 4, "a\nb\nc\nd\n")
    assert install in mistake(capsys, "train", folder, *arguments, "--out", tmp_path / "run")


def pictures(folder: Path, count: int, captions: str) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (16, 16), (40 * i, 90, 120)).save(folder / f"{i}.png")
    (folder / "captions.txt").write_text(captions)
    return folder


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ("one\ntwo\n", "has 2 lines for 4 pictures; the first picture without a line is 2.png"),
        (
            "1\n2\n3\n4\nfive\n",
            "has 5 lines for 4 pictures; the first line without a picture is 'fi",
        ),
        ("0.png\tone\n7.png\ttwo\n", "captions for 2 pictures, the folder 4 pictures; the first"),
        ("0.png\tone\n7.png\ttwo\n", "caption without a picture is of '7.png'"),
    ],
)
def test_captions_that_do_not_match_the_pictures(tmp_path, capsys, captions, message):
    folder = pictures(tmp_path / "pictures", 4, captions)
    run = tmp_path / "run"
    assert message in mistake(capsys, "train", folder, "--out", run, "--steps", "1", *TINY)
    assert not run.exists()


def test_a_metadata_file_that_does_not_match_the_pictures(tmp_path, capsys):
    folder = pictures(tmp_path / "pictures", 4, "")
    (folder / "captions.txt").unlink()
    rows = [{"file_name": f"{i}.png", "text": "x"} for i in (0, 7, 1, 9)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    message = mistake(capsys, "train", folder, "--out", tmp_path / "run", "--steps", "1")
    assert "line 2, names '7.png', which is no picture of" in message
    assert "it has 4 lines for 4 pictures, 2 of them for none" in message
