"""Captions and labels that folders come with, as people lay them out."""

from __future__ import annotations

import json

import pytest
import torch

from nelbo import NelboError
from nelbo.data import load_data
from tests.data.pictures import write


def load(folder, split="all"):
    return load_data(str(folder), split, size=4)


def metadata(folder, *rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_metadata_gives_captions_and_labels(tmp_path):
    for name in ("a.png", "b.png", "sub/c.png", "d.png"):
        write(tmp_path / name)
    metadata(
        tmp_path,
        {"file_name": "b.png", "text": "a bee", "label": "insect"},
        {"file_name": "sub/c.png", "caption": "a sea\u2028wide", "label": "water"},
        {"file_name": "a.png", "label": "insect"},
    )
    data = load(tmp_path)
    of = {name: i for i, name in enumerate(data.names)}
    assert data.label_names == ("insect", "water")
    assert data.captions[of["a.png"]] is None
    assert data.captions[of["b.png"]] == "a bee"
    assert data.captions[of["sub/c.png"]] == "a sea\u2028wide"
    labels = {name: int(data.labels[i]) for name, i in of.items()}
    assert labels == {"a.png": 0, "b.png": 0, "sub/c.png": 1, "d.png": -1}
    picked = data.take(torch.tensor([of["b.png"]]))
    assert picked.captions == ("a bee",)
    # What is said may change without the pictures being decoded again.
    metadata(tmp_path, {"file_name": "b.png", "text": "another bee", "label": 7})
    assert "another bee" in load(tmp_path).captions
    assert load(tmp_path).label_names == ("7",)


def test_metadata_beside_the_pictures_of_a_split(tmp_path):
    for i in range(3):
        write(tmp_path / "train" / f"{i}.png", i)
        write(tmp_path / "validation" / f"{i}.png", 10 + i)
    metadata(tmp_path / "train", {"file_name": "1.png", "text": "one"})
    train, test = load(tmp_path, "train"), load(tmp_path, "test")
    assert train.names == ("train/0.png", "train/1.png", "train/2.png")
    assert train.captions == (None, "one", None)
    assert test.names == ("validation/0.png", "validation/1.png", "validation/2.png")
    assert test.images[:, 0, 0, 0].tolist() == [10, 11, 12]


def test_folders_are_classes(tmp_path):
    for i in range(12):
        write(tmp_path / ("cat" if i % 3 else "dog") / "deep" / f"{i}.png", i)
    for split in ("train", "test", "all"):
        data = load(tmp_path, split)
        assert data.label_names == ("cat", "dog")
        expected = [0 if name.startswith("cat") else 1 for name in data.names]
        assert data.labels.tolist() == expected
    write(tmp_path / "loose.png")
    assert load(tmp_path).labels is None


def test_classes_below_the_splits(tmp_path):
    for split in ("train", "test"):
        for kind in ("a", "b"):
            write(tmp_path / split / kind / "x.png")
    data = load(tmp_path, "test")
    assert data.names == ("test/a/x.png", "test/b/x.png")
    assert data.label_names == ("a", "b")


def test_number_labels_keep_their_order(tmp_path):
    for i in (2, 10, 1):
        write(tmp_path / f"{i}.png", i)
    metadata(tmp_path, *({"file_name": f"{i}.png", "label": i} for i in (2, 10, 1)))
    assert load(tmp_path).label_names == ("1", "2", "10")


@pytest.mark.parametrize("named", [True, False])
def test_captions_file(tmp_path, named):
    for name in ("b.png", "a.png", "c.png"):
        write(tmp_path / name)
    lines = ["c.png\tsee", "a.png\tan a"] if named else ["an a", "", "see"]
    (tmp_path / "captions.txt").write_text("\ufeff" + "\r\n".join(lines) + "\n", "utf-8")
    data = load(tmp_path)
    assert dict(zip(data.names, data.captions, strict=True)) == {
        "a.png": "an a",
        "b.png": None,
        "c.png": "see",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\n", r"has 1 lines for 2 pictures; the first picture without a line is b\.png"),
        ("one\ntwo\nthree\n", "has 3 lines for 2 pictures; the first line without .* 'three'"),
        ("a.png\tone\nx.png\ttwo\n", r"captions for 2 pictures, the folder 2 .* is of 'x\.png'"),
        ("a.png\tone\nb.png\ttwo\na.png\t3\n", r"line 3, has another caption for 'a\.png'"),
    ],
)
def test_captions_that_do_not_fit(tmp_path, text, message):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    (tmp_path / "captions.txt").write_text(text)
    with pytest.raises(NelboError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2, is not readable as JSON"),
        ("[]", "line 2, must hold a JSON object, found list"),
        ("{}", "line 2, has file_name None"),
        ('{"file_name": "x.png"}', r"line 2, names 'x\.png', which is no picture"),
        ('{"file_name": "a.png", "text": 3}', "has text 3; expected a string"),
        ('{"file_name": "a.png", "label": [1]}', r"has label \[1\]"),
        ('{"file_name": "a.png", "label": true}', "has label True"),
    ],
)
def test_metadata_mistakes_name_the_line(tmp_path, line, message):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "b.png"}}\n{line}\n')
    with pytest.raises(NelboError, match=message):
        load(tmp_path)


def test_captions_in_two_places(tmp_path):
    write(tmp_path / "a.png")
    metadata(tmp_path, {"file_name": "a.png", "text": "a"})
    (tmp_path / "captions.txt").write_text("a\n")
    with pytest.raises(NelboError, match="keep one"):
        load(tmp_path)
