import numpy as np
import pytest
import torch
from PIL import Image

from nelbo.base.errors import NelboError
from nelbo.base.files import write_csv
from nelbo.report.animation import save_animation
from nelbo.report.grids import image_grid, page_scale, save_grid, save_image, to_bytes, to_pil
from nelbo.report.page import write_html
from nelbo.runs.settings_file import write_settings
from tests.report.examples import make_images


def test_every_pixel_is_a_block_of_its_level_between_white_gaps():
    images = torch.tensor([[[[0, 16], [8, 4]]], [[[16, 16], [0, 0]]], [[[1, 2], [3, 4]]]])
    grid = image_grid(images.to(torch.uint8), 17, columns=2, scale=3, gap=1)
    assert grid.mode == "L"
    assert grid.size == (2 * 7 + 1, 2 * 7 + 1)
    expected = np.full((15, 15), 255, np.uint8)
    for i, (top, left) in enumerate([(1, 1), (1, 8), (8, 1)]):
        values = np.round(images[i, 0].numpy() * 255 / 16).astype(np.uint8)
        expected[top : top + 6, left : left + 6] = np.kron(values, np.ones((3, 3), np.uint8))
    assert np.array_equal(np.asarray(grid), expected)


def test_rgb_keeps_its_channels():
    images = make_images(1, 256, (3, 2, 2))
    grid = image_grid(images, 256, scale=1, gap=0)
    assert grid.mode == "RGB"
    assert np.array_equal(np.asarray(grid), images[0].permute(1, 2, 0).numpy())


def test_defaults_make_digits_readable_and_the_grid_square():
    side, gap = page_scale(8, 3) * 8, 16
    grid = image_grid(make_images(9), 17)
    assert grid.size == (3 * (side + gap) + gap, 3 * (side + gap) + gap) == (448, 448)


@pytest.mark.parametrize(
    ("side", "columns", "enlarged"),
    [(32, 1, 128), (32, 2, 128), (32, 4, 128), (32, 8, 64), (8, 8, 64), (8, 40, 48), (300, 2, 300)],
)
def test_a_page_to_look_at(side, columns, enlarged):
    assert page_scale(side, columns) * side == enlarged


def test_levels_span_black_to_white():
    assert to_bytes(torch.arange(17, dtype=torch.uint8), 17)[[0, 8, 16]].tolist() == [0, 128, 255]
    assert to_bytes(torch.arange(256).to(torch.uint8), 256).tolist() == list(range(256))
    assert to_bytes(torch.tensor([0, 1], dtype=torch.uint8), 2).tolist() == [0, 255]


def test_saved_grid_is_the_grid_and_leaves_nothing_else(tmp_path):
    images = make_images(4)
    path = tmp_path / "deeper" / "grid.png"
    save_grid(images, path, 17, columns=2)
    with Image.open(path) as saved:
        assert np.array_equal(np.asarray(saved), np.asarray(image_grid(images, 17, columns=2)))
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: image_grid(make_images(0), 17), "at least one image"),
        (lambda: image_grid(make_images(2), 5), "level 16, expected 0..4"),
        (lambda: image_grid(make_images(2), 17, columns=0), "columns"),
        (lambda: to_pil(make_images(1, shape=(2, 4, 4))[0], 17), "channels, got 2"),
        (lambda: save_grid(make_images(1), "grid.pth", 17), "image format"),
        (lambda: save_grid(make_images(1), "grid.psd", 17), "image format"),  # is only read
    ],
)
def test_mistakes_are_explained(call, words):
    with pytest.raises(NelboError, match=words):
        call()


def test_what_cannot_be_written_names_its_file_and_why(tmp_path):
    (tmp_path / "file").touch()
    within, image = tmp_path / "file" / "new", Image.new("L", (2, 2))
    writers = {
        ".png": lambda path: save_image(image, path),
        ".gif": lambda path: save_animation([image], path),
        ".html": lambda path: write_html("<p>", path),
        ".csv": lambda path: write_csv(path, [["name"]]),
        ".yaml": lambda path: write_settings(path, {"steps": 1}),
    }
    for suffix, write in writers.items():
        path = within.with_suffix(suffix)
        with pytest.raises(NelboError, match=rf"cannot write {path}: .*; nothing was written"):
            write(path)
