"""Several crops of a photograph that is much larger than the size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from nelbo import NelboError
from nelbo.data import load_data
from nelbo.data.decode import _random_boxes
from nelbo.data.sources import absolute, with_crops


@pytest.fixture
def photographs(tmp_path):
    """Twenty of 60×90, brighter to the right, and one that is no larger than the size."""
    folder = tmp_path / "photographs"
    for i in range(20):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        ramp = np.tile(np.linspace(0, 255, 90).astype(np.uint8), (60, 1))
        ramp[:, 0] = i  # no two alike
        Image.fromarray(ramp).save(folder / "ab"[i % 2] / f"{i:02}.png")
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(folder / "a" / "small.png")
    return folder


def test_each_photograph_to_train_on_gives_crops_and_lies_in_one_split(photographs):
    source = f"{photographs}?crops=5"
    parts = {s: load_data(source, s, size=8) for s in ("train", "validation", "test")}
    of = {s: {name.rpartition("#")[0] for name in data.names} for s, data in parts.items()}
    assert sum(map(len, of.values())) == 21
    assert len(set.union(*of.values())) == 21
    whole = {s: set(load_data(str(photographs), s, size=8).names) for s in parts}
    assert of == whole  # the splits do not change with the crops
    small = "a/small.png" in of["train"]
    assert len(parts["train"]) == 5 * len(of["train"]) - 4 * small
    for split in ("validation", "test"):
        assert len(parts[split]) == len(of[split])
        assert all(name.endswith("#1") for name in parts[split].names)
    everything = load_data(source, "all", size=8)
    classes = [everything.label_names[i] for i in everything.labels]
    assert classes == [name[0] for name in everything.names]
    again = load_data(source, "all", size=(8, 8))
    assert torch.equal(again.images, everything.images)
    means = parts["train"].images.float().mean((1, 2, 3))
    assert means.std() > 20  # at different places


def test_crops_keep_their_proportions_and_lie_inside():
    boxes = _random_boxes((100, 300), (8, 16), 500, "x")
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 300
        assert 0 <= top < bottom <= 100
        assert abs((right - left) - 2 * (bottom - top)) <= 1
    heights = np.array([bottom - top for _, top, _, bottom in boxes])
    assert heights.min() >= 25
    assert heights.max() <= 100
    assert (
        np.abs(np.quantile(heights, [0.25, 0.75]) - 100 * 4.0 ** np.array([-0.75, -0.25])).max() < 5
    )
    assert boxes == _random_boxes((100, 300), (8, 16), 500, "x")
    assert boxes != _random_boxes((100, 300), (8, 16), 500, "y")
    tight = _random_boxes((10, 10), (8, 8), 50, "x")
    assert min(bottom - top for _, top, _, bottom in tight) == 8


def test_the_source_says_how_many(photographs):
    source = with_crops(str(photographs), 4)
    assert source == f"{photographs}?crops=4"
    assert with_crops(source, 4) == source
    assert with_crops(source, None) == source
    assert absolute(source) == source
    with pytest.raises(NelboError, match="already has another number"):
        with_crops(source, 5)
    with pytest.raises(NelboError, match="not for emoji"):
        with_crops("emoji", 2)
    with pytest.raises(NelboError, match="--crops must be at least 1"):
        with_crops(str(photographs), 0)
    for option, message in (
        ("crops=x", "crops is 'x'; expected a whole number from 1"),
        ("crops=0", "crops is '0'; expected"),
        ("max_images=3", "a folder of pictures takes crops alone"),
    ):
        with pytest.raises(NelboError, match=message):
            load_data(f"{photographs}?{option}", "all", size=8)


def test_a_folder_may_have_question_marks_in_its_name(photographs, tmp_path):
    folder = photographs.rename(tmp_path / "which? these? crops=2")
    source = with_crops(str(folder), 3)
    assert len(load_data(source, "train", size=8)) > len(load_data(str(folder), "train", size=8))
    assert absolute(source) == source
    assert with_crops(source, 3) == source


def test_a_table_gives_the_crops_of_its_rows(photographs, tmp_path):
    datasets = pytest.importorskip("datasets")
    paths = sorted(map(str, photographs.rglob("*.png")))
    rows = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    rows.to_parquet(str(tmp_path / "t.parquet"))
    source = f"{tmp_path / 't.parquet'}?crops=3"
    train, test = (load_data(source, split, size=8) for split in ("train", "test"))
    assert len(test) == 2
    assert len(train) > 2 * len({name.rpartition("#")[0] for name in train.names})
    with pytest.raises(NelboError, match="leave crops out"):
        load_data(f"{source}&stream=5", "train", size=8)
