"""Tables of pictures: local parquet files with the columns of the Hub's data sets."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from nelbo import NelboError
from nelbo.data import load_data, sources
from nelbo.data.columns import caption_of


def picture(value: int, side: int, grey: bool) -> Image.Image:
    return Image.new("L" if grey else "RGB", (side, side), value if grey else (value, 0, 0))


def table(count, *, column="image", side=28, grey=True, classes=None, start=0, **columns):
    features = {column: datasets.Image()}
    rows = {column: [picture(start + i, side, grey) for i in range(count)]}
    if classes is not None:
        features["label"] = datasets.ClassLabel(names=classes)
        rows["label"] = [i % len(classes) for i in range(count)]
    for name, values in columns.items():
        features[name] = datasets.Value("string" if isinstance(values[0], str) else "int64")
        rows[name] = values
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def with_splits(folder, train, test):
    (folder / "data").mkdir(parents=True)
    train.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    test.to_parquet(folder / "data" / "test-00000-of-00001.parquet")


@pytest.mark.parametrize(
    ("name", "column", "side", "grey"),
    [("mnist", "image", 28, True), ("cifar10", "img", 32, False)],
)
def test_named_sets_of_the_hub(tmp_path, monkeypatch, name, column, side, grey):
    """The layout of the Hub's repository, from a copy on disk."""
    classes = ["z", "y", "x"]  # in an order that is not the alphabet's
    options = {"column": column, "side": side, "grey": grey, "classes": classes}
    with_splits(tmp_path / name, table(12, **options), table(6, start=100, **options))
    _, channels, own_side = sources.HUB_NAMES[name]
    assert own_side == side
    monkeypatch.setitem(sources.HUB_NAMES, name, (str(tmp_path / name), channels, side))
    train, validation, test = (load_data(name, part) for part in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (11, 1, 6)
    assert train.shape == (1 if grey else 3, side, side)
    assert train.label_names == ("z", "y", "x")
    assert test.labels.tolist() == [0, 1, 2] * 2
    assert train.images[:, 0, 5, 5].tolist() == [i for i in range(12) if i != 8]
    assert validation.images[:, 0, 5, 5].tolist() == [8]
    assert test.images[:, 0, 5, 5].tolist() == list(range(100, 106))
    assert test.names[0] == "test #0"
    assert "mnist" in train.credit.lower() or "cifar" in train.credit.lower()
    assert len(load_data(name, "all")) == 18


def test_blank_texts_of_a_table_are_none(tmp_path):
    path = tmp_path / "mine.parquet"
    kinds, captions = ["", "x", " ", "y"], ["one", "two", " ", ""]
    table(4, side=6, label=kinds, text=captions).to_parquet(path)
    data = load_data(str(path), "all", size=6)
    found = dict(
        zip(data.names, zip(data.captions, data.labels.tolist(), strict=True), strict=True)
    )
    assert data.label_names == ("x", "y")
    expected = [("one", -1), ("two", 0), (None, -1), (None, 1)]
    assert [found[f"train #{i}"] for i in range(4)] == expected
    assert not data.notes
    assert caption_of(["", "one"]) == ("one", ())


def test_a_parquet_file_without_splits(tmp_path):
    path = tmp_path / "mine.parquet"
    captions = [f"picture {i}" for i in range(25)]
    kinds = [f"k{i % 2}" for i in range(25)]
    table(25, side=6, label=kinds, text=captions).to_parquet(path)
    train, test = load_data(str(path), "train", size=6), load_data(str(path), "test", size=6)
    assert test.names == ("train #9", "train #19")
    assert test.captions == ("picture 9", "picture 19")
    assert test.label_names == ("k0", "k1")
    assert test.labels.tolist() == [1, 1]
    assert load_data(str(path), "validation", size=6).names == ("train #8", "train #18")
    assert len(train) == 21
    assert len(load_data(str(path), "train", size=6, validation=False)) == 23
    assert train.shape == (3, 6, 6)
    grey = load_data(str(path), "test", size=6, channels=1)
    assert grey.images.float().mean((1, 2, 3)).tolist() == [9, 19]


def declared(folder, **counts):
    """A folder of tables, one for each split, whose pictures tell which."""
    (folder / "data").mkdir(parents=True)
    for start, (name, count) in enumerate(counts.items()):
        rows = table(count, side=6, start=50 * start)
        rows.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return str(folder)


def shades(source, split, **options):
    data = load_data(source, split, size=6, channels=1, **options)
    return data.images[:, 0, 0, 0].tolist()


def test_a_validation_split_of_its_own(tmp_path):
    source = declared(tmp_path / "three", train=20, validation=3, test=4)
    assert shades(source, "train") == list(range(20))
    assert shades(source, "validation") == [50, 51, 52]
    assert shades(source, "test") == [100, 101, 102, 103]
    assert load_data(source, "all", size=6).split_note is None
    # Runs from before there was such a split never saw it.
    assert shades(source, "train", validation=False) == list(range(20))
    assert shades(source, "test", validation=False) == [100, 101, 102, 103]


def test_a_validation_split_and_none_for_test(tmp_path):
    source = declared(tmp_path / "two", train=20, validation=3)
    assert shades(source, "test") == [50, 51, 52]
    assert shades(source, "validation") == [8, 18]
    assert shades(source, "train") == [i for i in range(20) if i not in (8, 18)]
    note = load_data(source, "train", size=6).split_note
    assert note.startswith("there is no split test: validation is the test split")
    chosen = f"{source}?validation=validation"
    assert shades(chosen, "validation") == [50, 51, 52]
    assert shades(chosen, "test") == [9, 19]
    assert shades(chosen, "train") == [i for i in range(20) if i not in (9, 19)]
    assert load_data(chosen, "train", size=6).split_note is None
    with pytest.raises(NelboError, match="no split 'dev'; it has train, validation"):
        load_data(f"{source}?validation=dev")


def test_options_choose_columns_splits_and_how_many(tmp_path):
    with_splits(
        tmp_path,
        table(12, column="photo", side=6, number=list(range(12)), words=["w"] * 12),
        table(4, column="photo", side=6, number=[0] * 4, words=["v"] * 4),
    )
    source = f"{tmp_path}?image=photo&label=number&caption=words&max_images=3"
    data = load_data(source, "all", size=6)
    assert data.source == source
    assert data.captions == ("w", "w", "w", "v", "v", "v")
    assert data.label_names == ("0", "1", "2")
    swapped = load_data(f"{tmp_path}?train=test&test=train", "test", size=6)
    assert len(swapped) == 12
    assert load_data(f"{tmp_path}?train=test&test=train", "all", size=6).split_note is None


def test_rows_with_broken_pictures_are_named(tmp_path):
    rows = table(12, side=6).to_dict()
    rows["image"][3] = {"bytes": b"no picture", "path": None}
    rows["image"][5] = None
    features = datasets.Features({"image": datasets.Image()})
    path = tmp_path / "x.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    data = load_data(str(path), "all", size=6)
    assert len(data) == 10
    assert [line.split(":")[0] for line in data.skipped] == ["train #3", "train #5"]


def test_a_parquet_file_that_others_wrote(tmp_path):
    """Bytes in a struct, without the metadata of `datasets`."""
    buffer = io.BytesIO()
    picture(200, 6, True).save(buffer, "png")
    rows = {"image": [{"bytes": buffer.getvalue()}] * 11, "label": list(range(11))}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "x.parquet")
    data = load_data(str(tmp_path / "x.parquet"), "train", size=6)
    assert torch.equal(data.images, torch.full((9, 3, 6, 6), 200, dtype=torch.uint8))
    assert data.num_classes == 11


@pytest.mark.parametrize("name", ["shards", "shards [1]"])
@pytest.mark.parametrize("counts", [(0, 12), (12, 0), (6, 0, 6)])
def test_a_shard_without_rows(tmp_path, name, counts):
    (tmp_path / name).mkdir()
    for i, count in enumerate(counts):
        file = tmp_path / name / f"train-{i:05d}-of-{len(counts):05d}.parquet"
        table(count, side=6).to_parquet(file)
    assert len(load_data(str(tmp_path / name), "all", size=6)) == 12


@pytest.mark.parametrize("name", ["pictures [1]", "p*q", "a?b", "{a,b}"])
def test_a_path_is_no_pattern(tmp_path, name):
    for other, start in ((name, 0), ("pictures 1", 50), ("pxq", 100), ("axb", 150)):
        table(12, side=6, start=start).to_parquet(tmp_path / f"{other}.parquet")
    assert shades(str(tmp_path / f"{name}.parquet"), "all") == [*range(8), 10, 11, 8, 9]
    source = declared(tmp_path / name, train=3, validation=2, test=1)
    assert shades(source, "all") == [0, 1, 2, 50, 51, 100]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["cat.png"] * 3, "the first: train #0: the row holds a value of type str, no picture"),
        ([[[1, 2], [3, 4]]] * 3, "the row holds a value of type list, no picture"),
        ([5] * 3, "the row holds a value of type int, no picture"),
        ([None] * 3, "the row holds no picture"),
        (pyarrow.array([], pyarrow.binary()), r"x\.parquet holds no picture that can be read"),
    ],
)
def test_a_column_of_no_pictures(tmp_path, values, message):
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": values}), path)
    with pytest.raises(NelboError, match=message):
        load_data(str(path), "all", size=6)


@pytest.mark.parametrize("column", ["a+b", "R&D", "50%25", "x=y", "é ü", "#1?"])
def test_another_column_may_have_any_name(tmp_path, column):
    path = tmp_path / "x.parquet"
    rows = {
        name: [picture(start + i, 6, True) for i in range(12)]
        for name, start in (("p+q", 0), (column, 100))
    }
    features = datasets.Features({name: datasets.Image() for name in rows})
    datasets.Dataset.from_dict(rows, features).to_parquet(path)
    source = sources.with_column(f"{path}?image=p%2Bq&max_images=11", column)
    assert shades(source, "all") == [*range(100, 108), 110, 108, 109]


def test_table_mistakes(tmp_path):
    path = tmp_path / "x.parquet"
    table(3, side=6).to_parquet(path)
    for query, message in (
        ("image=photo", "no column 'photo'; it has image"),
        ("colour=red", "unknown option 'colour'; expected one of config"),
        ("max_images=few", "max_images is 'few'"),
        ("max_images=0", "max_images must be at least 1"),
        ("test=dev", "no split 'dev'; it has train"),
        ("nonsense", "options are written"),
    ):
        with pytest.raises(NelboError, match=message):
            load_data(f"{path}?{query}", "all")
    table(1, side=6).to_parquet(path)
    with pytest.raises(NelboError, match="1 readable pictures, and none for the test split"):
        load_data(str(path), "test", size=6)
    (tmp_path / "bad.parquet").write_bytes(np.arange(50).tobytes())
    with pytest.raises(NelboError, match=r"bad\.parquet cannot be read"):
        load_data(str(tmp_path / "bad.parquet"))


def test_without_a_network_the_hub_is_named():
    with pytest.raises(NelboError, match=r"cannot reach the Hub for hub:some/set: .*parquet files"):
        load_data("hub:some/set")
    with pytest.raises(NelboError, match="cannot reach the Hub for mnist"):
        load_data("mnist")
