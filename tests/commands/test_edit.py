"""nelbo edit: image to image, inpainting and interpolation on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from nelbo.cli import main
from nelbo.data import load_data
from nelbo.report.grids import to_pil
from tests.formats import tiny


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture
def files(tmp_path):
    """Two digits, and a mask that is white in its right half."""
    digits = load_data("digits", "test").images
    for name, image in (("a", digits[0]), ("b", digits[1])):
        to_pil(image, 17).save(tmp_path / f"{name}.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def edit(path, files, *options: str) -> np.ndarray:
    out = files / "out.png"
    main(["edit", str(path), "--image", str(files / "a.png"), "--out", str(out), *options])
    return pixels(out)


def test_inpainting_keeps_what_is_not_white(run_path, files, capsys):
    mask = ["--mask", str(files / "mask.png"), "--steps", "8", "--jump-length", "2"]
    edited = edit(run_path, files, *mask)
    original = pixels(files / "a.png")
    assert np.array_equal(edited[:, :4], original[:, :4])
    assert not np.array_equal(edited[:, 4:], original[:, 4:])
    assert "1 image in" in capsys.readouterr().out
    assert np.array_equal(edited, edit(run_path, files, *mask))
    assert not np.array_equal(edited, edit(run_path, files, *mask, "--seed", "1"))


def test_a_low_strength_keeps_the_picture(run_path, files):
    original = pixels(files / "a.png")
    sampler = ["--sampler", "ddim", "--steps", "20"]
    near = np.abs(edit(run_path, files, "--strength", "0.05", *sampler) - original).mean()
    far = np.abs(edit(run_path, files, "--strength", "1", *sampler) - original).mean()
    assert near < 16 < far


def test_results_of_an_image_do_not_depend_on_the_batch(run_path, files, capsys):
    options = ["-n", "3", "--steps", "5", "--json"]
    together = edit(run_path, files, *options)
    assert json.loads(capsys.readouterr().out)["images"] == 3
    assert np.abs(together - edit(run_path, files, *options, "--batch-size", "1")).max() <= 16


@pytest.mark.parametrize("encoder", ["inversion", "diffusion"])
def test_interpolation_is_a_row(run_path, files, encoder):
    strength = ["--strength", "0.1"] if encoder == "diffusion" else []
    row = edit(
        run_path,
        files,
        *["--interpolate", str(files / "b.png"), "--frames", "4", "--encoder", encoder],
        *["--sampler", "ddim", "--steps", "20", *strength],
    )
    assert row.shape[1] > 3 * row.shape[0]
    # blocks of 16×16 with a gap of 16 around them
    frames = [row[24:144:16, 24 + 144 * i : 144 * (i + 1) : 16] for i in range(4)]
    for frame, name in ((frames[0], "a"), (frames[-1], "b")):
        assert np.abs(frame - pixels(files / f"{name}.png")).mean() < 20


def test_a_picture_of_any_size_is_cut_and_scaled_with_a_note(run_path, files, capsys):
    Image.fromarray(np.full((30, 20, 3), 200, np.uint8)).save(files / "a.png")
    assert edit(run_path, files, "--steps", "5").shape == (8, 8)
    assert "a.png is 30×20 pixels, the model takes 8×8" in capsys.readouterr().err


def test_a_mask_of_strokes_on_a_transparent_layer(run_path, files):
    """White everywhere, and opaque where the strokes are, as editors of masks save a layer."""
    layer = np.full((8, 8, 4), 255, np.uint8)
    layer[:, :4, 3] = 0
    Image.fromarray(layer).save(files / "layer.png")
    mask = ["--steps", "8", "--jump-length", "2", "--mask"]
    drawn = edit(run_path, files, *mask, str(files / "layer.png"))
    assert np.array_equal(drawn, edit(run_path, files, *mask, str(files / "mask.png")))


def test_a_mask_of_the_picture_lies_where_the_picture_does(run_path, files):
    """A wide picture is cut in the middle, and its mask likewise."""
    original = pixels(files / "a.png").astype(np.uint8)
    wide = np.concatenate([np.zeros((8, 4), np.uint8), original, np.zeros((8, 4), np.uint8)], 1)
    Image.fromarray(wide).save(files / "a.png")
    mask = np.zeros((8, 16), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(mask).save(files / "mask.png")
    options = ["--steps", "8", "--jump-length", "2", "--mask", str(files / "mask.png")]
    edited = edit(run_path, files, *options)
    assert np.array_equal(edited[:, :4], original[:, :4])
    assert not np.array_equal(edited[:, 4:], original[:, 4:])


def test_a_latent_pipeline_inpaints_pixels(tmp_path):
    tiny.stable_diffusion(tmp_path)
    random = np.random.default_rng(0)
    original = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(original).save(tmp_path / "a.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[5:9, 5:9] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = ["--mask", str(tmp_path / "mask.png"), "--steps", "3", "--jump-n-sample", "1"]
    prompt = ["--prompt", "cat", "--guidance", "2"]
    edited = edit(tmp_path / "pipeline", tmp_path, *options, *prompt)
    assert np.array_equal(edited[mask == 0], original[mask == 0])
    assert not np.array_equal(edited[mask > 0], original[mask > 0])
