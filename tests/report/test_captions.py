"""Prompts beneath their pictures: every picture in its place, every text within the page."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from nelbo import NelboError
from nelbo.report.captions import interpolation_grid, prompt_grid


def flat(n: int, side: int = 64) -> torch.Tensor:
    """Pictures of one grey each, 10, 20, …"""
    return (10 * torch.arange(1, n + 1)).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, side, side)


def greys(page: Image.Image) -> dict[int, tuple[int, int, int, int]]:
    """The box (left, top, right, bottom) of each grey of `flat`, where it fills one."""
    pixels = np.asarray(page)
    boxes = {}
    for grey in range(10, 130, 10):
        found = (pixels == grey).all(-1)
        rows, columns = np.flatnonzero(found.sum(1) > 60), np.flatnonzero(found.sum(0) > 60)
        if len(rows) and len(columns):
            boxes[grey] = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return boxes


def ink_below(page: Image.Image, box: tuple[int, int, int, int], height: int = 20) -> int:
    left, _, right, bottom = box
    return int(
        (np.asarray(page.convert("L"))[bottom + 17 : bottom + 17 + height, left:right] < 200).sum()
    )


def test_pictures_of_a_prompt_stand_in_its_row():
    page = prompt_grid(flat(5), ["a cat", "a dog"])  # cat: 1, 3, 5; dog: 2, 4
    boxes = greys(page)
    assert len(boxes) == 5
    rows = [[boxes[10 * i][1] for i in row] for row in ((1, 3, 5), (2, 4))]
    assert len(set(rows[0])) == len(set(rows[1])) == 1
    assert rows[0][0] < rows[1][0]
    assert boxes[10][0] == boxes[20][0] < boxes[30][0] == boxes[40][0] < boxes[50][0]
    # 64 pixels are enlarged to 128, and words stand below the first of each row
    assert boxes[10][2] - boxes[10][0] == 128
    for first in (10, 20):
        assert ink_below(page, boxes[first]) > 20
    assert ink_below(page, boxes[50]) == 0


def test_one_picture_each_stand_side_by_side_with_their_prompts():
    prompts = ["one", "a longer prompt, of which several lines are needed", "three", "four"]
    page = prompt_grid(flat(4), prompts)
    boxes = greys(page)
    assert boxes[10][1] == boxes[20][1] < boxes[30][1] == boxes[40][1]
    assert boxes[10][0] == boxes[30][0] < boxes[20][0] == boxes[40][0]
    for box in boxes.values():
        assert ink_below(page, box) > 20


def test_an_interpolation_has_a_prompt_below_each_end():
    page = interpolation_grid(flat(8), "left", "right", 4)
    boxes = greys(page)
    assert [boxes[10 * i][1] for i in (1, 2, 3, 4)] == [boxes[10][1]] * 4
    assert boxes[50][1] > boxes[10][1]
    assert ink_below(page, boxes[50]) > 20
    assert ink_below(page, boxes[80]) > 20
    assert ink_below(page, boxes[60]) == ink_below(page, boxes[70]) == 0


def test_long_texts_stay_on_the_page():
    """Whatever the prompt is, the page is as wide as its pictures and a few lines higher."""
    plain = prompt_grid(flat(2), ["a", "b"])
    for text in ("word " * 60, "x" * 400, "", "\n", "кошка 猫 🐱"):
        page = prompt_grid(flat(2), [text, "b"])
        assert page.width == plain.width
        assert plain.height <= page.height <= plain.height + 2 * 17
        margin = np.asarray(page.convert("L"))[:, -3:]
        assert (margin == 255).all()


def test_more_prompts_than_images():
    with pytest.raises(NelboError, match="3 prompts for 2 images"):
        prompt_grid(flat(2), ["a", "b", "c"])
