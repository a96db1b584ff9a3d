"""The same picture in two splits, by its pixels."""

from __future__ import annotations

import torch

from nelbo.data import load_data
from nelbo.data.duplicates import duplicates_line, is_among, without_duplicates
from tests.data.pictures import write


def three(tmp_path):
    """Test pictures 0, 1, 2, of which 1 is also for training, and 2 for validation."""
    for split, values in (("train", (1, 3, 4)), ("validation", (2, 5)), ("test", (0, 1, 2))):
        for value in values:
            write(tmp_path / split / f"{split} {value}.png", value)
    return [load_data(str(tmp_path), split, size=6) for split in ("train", "validation", "test")]


def test_what_is_in_another_split_is_left_out_and_counted(tmp_path):
    train, validation, test = three(tmp_path)
    assert is_among(test, train, validation).tolist() == [False, True, True]
    left = without_duplicates(test, train, validation)
    assert left.names == ("test/test 0.png",)
    assert (left.duplicates, left.left_out) == (2, 2)
    assert left.take(slice(0, 1)).left_out == 2  # it is known of a part, too
    line = duplicates_line(left)
    assert line.startswith("2 of 3 test images of ")
    assert line.endswith("and are left out")
    kept = without_duplicates(test, train, validation, keep=True)
    assert (len(kept), kept.duplicates, kept.left_out) == (3, 2, 0)
    assert duplicates_line(kept).endswith("and are kept")


def test_where_nothing_would_be_left_all_stay(tmp_path):
    train, validation, test = three(tmp_path)
    again = without_duplicates(test.take(slice(1, 3)), train, validation)
    assert (len(again), again.duplicates, again.left_out) == (2, 2, 0)
    alone = without_duplicates(test)
    assert (len(alone), duplicates_line(alone)) == (3, "")


def test_emoji_that_are_drawn_alike():
    """Fifty of the 482, counted here by comparing the pixels themselves."""
    train, validation, test = (load_data("emoji", s) for s in ("train", "validation", "test"))
    seen = {image.numpy().tobytes() for data in (train, validation) for image in data.images}
    again = torch.tensor([image.numpy().tobytes() in seen for image in test.images])
    assert int(again.sum()) == 50
    assert torch.equal(is_among(test, train, validation), again)
