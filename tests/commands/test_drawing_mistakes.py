"""Mistakes in sampling and editing: one clear message, exit code 2, nothing written."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.faults.test_mistakes import mistake
from tests.formats import tiny


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampler", "magic"], "unknown --sampler 'magic': expected one of ddpm, ddim"),
        (["--sampler", "ddpm", "--eta", "0.5"], "--eta does not apply to the sampler ddpm"),
        (["--sampler", "ddim", "--steps", "20", "--eta", "2"], "eta must lie in 0..1"),
        (["--steps", "21"], "steps must lie in 1..20"),
        (["--seed", "-1"], "--seed must lie in 0..2^63 − 1, got -1"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--label", "1", "2"], "not class-conditional"),
        (["--prompt", "cat"], "without a text encoder"),
        (["--prompt-file", "nowhere.txt"], "cannot read --prompt-file"),
        (["--label", "1", "--prompt", "cat"], "either --label or a prompt"),
        (["--guidance", "2"], "neither labels nor text"),
        (["--guidance", "nan"], "must be a finite number"),
        (["--guidance-interval", "0.1", "2"], "with --guidance other than 1 only"),
        (["--guidance-rescale", "0.5"], "with --guidance other than 1 only"),
        (["--guidance", "2", "--guidance-interval", "2", "1"], "interval must be"),
        (["--scale", "0"], "--scale must lie in 1..64, got 0"),
        (["--label", "1", "0", "2", "-n", "2"], "-n 2 draws 2 of 3 labels: give -n 3 or more"),
        (["--prompt", "a", "--prompt", "b", "-n", "1"], "-n 1 draws 1 of 2 prompts: give -n 2"),
        (["--animation", "x.mp4"], "an animation must end in .gif or .webp"),
    ],
)
def test_sampling(run_path, tmp_path, capsys, options, message):
    out = tmp_path / "x.png"
    assert message in mistake(capsys, "sample", run_path, "--out", out, *options)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strength", "0"], "strength must lie in (0, 1], got 0.0"),
        (["--strength", "1.5"], "strength must lie in (0, 1], got 1.5"),
        (["--strength", "0.01", "--sampler", "ddpm"], "leaves none of 20 steps"),
        (["--strength", "0.01"], "leaves none of 20 steps"),
        (["--image", "nowhere.png"], "there is no picture nowhere.png"),
        (["--image", "text.png"], "text.png is no picture of a known format"),
        (
            ["--image", "large.png", "--no-resize"],
            "is 10×12 pixels, the model takes 8×8 (height × width): leave --no-resize out",
        ),
        (["--mask", "large.png"], "large.png is 10×12 and the picture 8×8 (height × width)"),
        (["--mask", "image.png"], "is white everywhere at 8×8, so nothing would be kept"),
        (["--mask", "black.png"], "is nowhere white"),
        (["--mask", "image.png", "--strength", "0.5"], "--strength takes effect without --mask"),
        (["--mask", "image.png", "--sampler", "ddim"], "inpainting walks with ddpm"),
        (["--mask", "image.png", "--jump-length", "0"], "--jump-length must be at least 1"),
        (["--mask", "image.png", "--interpolate", "image.png"], "either --mask or --interpolate"),
        (["--jump-length", "3"], "--jump-length takes effect with --mask"),
        (["--frames", "3"], "--frames takes effect with --interpolate"),
        (["--interpolate", "image.png", "-n", "2"], "an interpolation has one result"),
        (["--interpolate", "image.png", "--sampler", "ddpm"], "DDPM cannot be inverted"),
        (["--interpolate", "image.png", "--encoder", "x"], "unknown encoder 'x'"),
        (["--guidance", "3"], "neither labels nor text"),
        (["--seed", "-3"], "--seed must lie in 0..2^63 − 1"),
        (["--label", "1", "2"], "-n 1 draws 1 of 2 labels: give -n 2 or more"),
        (["--out", "x.jpg"], "must name a .png file"),
    ],
)
def test_editing(run_path, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save("image.png")
    Image.fromarray(np.full((8, 8), 20, np.uint8)).save("black.png")
    Image.fromarray(np.full((10, 12), 200, np.uint8)).save("large.png")
    (tmp_path / "text.png").write_text("no picture")
    given = [] if "--image" in options else ["--image", "image.png"]
    if "--interpolate" in options:  # the chain of the run has 20 levels
        options = [*options, "--steps", "5"]
    assert message in mistake(capsys, "edit", run_path, *given, *options)
    assert not (tmp_path / "edited.png").exists()


def test_prompts_of_a_latent_pipeline(tmp_path, capsys):
    tiny.stable_diffusion(tmp_path)
    path, out = tmp_path / "pipeline", ["--out", tmp_path / "x.png"]
    (tmp_path / "empty.txt").write_text("\n")
    for options, message in (
        (["--label", "3"], "takes prompts, not classes"),
        (["--guidance", "3"], "needs a prompt"),
        (["--prompt", "cat", "--negative", "dog"], "with --guidance other than 1 only"),
        (["--prompt-file", tmp_path / "empty.txt"], "holds no prompts"),
        (["--prompt", "a", "--prompt-file", tmp_path / "empty.txt"], "either --prompt or"),
    ):
        assert message in mistake(capsys, "sample", path, *out, *options)
    assert not (tmp_path / "x.png").exists()
