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
        write(tmp_path / "test" / f"{i}.png", 20 + i)
    metadata(tmp_path / "train", {"file_name": "1.png", "text": "one"})
    train, validation, test = (load(tmp_path, part) for part in ("train", "validation", "test"))
    assert train.names == ("train/0.png", "train/1.png", "train/2.png")
    assert train.captions == (None, "one", None)
    assert validation.names == ("validation/0.png", "validation/1.png", "validation/2.png")
    assert validation.images[:, 0, 0, 0].tolist() == [10, 11, 12]
    assert test.images[:, 0, 0, 0].tolist() == [20, 21, 22]


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
        ('{"label": ' + "1" * 5000 + "}", "line 2, is not readable as JSON"),
        ("[" * 100_000, "line 2, is not readable as JSON"),
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


def csv_file(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.csv").write_bytes(text.encode("utf-8"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_metadata_csv(tmp_path, delimiter, end):
    for name in ("a.png", "sub/b.png", "c.png"):
        write(tmp_path / name)
    lines = ["file_name,label,text", 'a.png,cat,"a, small; cat"', "sub/b.png,dog,", ",,"]
    lines[1:1] = ['c.png,cat,"two""s"']
    table = end.join(lines[:-1]).replace("a, small", "a small")
    csv_file(tmp_path, "\ufeff" + table.replace(",", delimiter) + end)
    data = load(tmp_path)
    of = dict(zip(data.names, data.captions, strict=True))
    assert of == {"a.png": "a small; cat", "sub/b.png": None, "c.png": 'two"s'}
    classes = dict(zip(data.names, data.labels.tolist(), strict=True))
    assert classes == {"a.png": 0, "sub/b.png": 1, "c.png": 0}
    assert data.label_names == ("cat", "dog")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_a_caption_may_hold_a_separator_of_unicode(tmp_path, separator):
    write(tmp_path / "a.png")
    csv_file(tmp_path, f"file_name,text\na.png,a{separator}b\n")
    assert load(tmp_path).captions == (f"a{separator}b",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,text\na.png,x\n", "line 1, has no column file_name; found name, text"),
        ("", "line 1, has no column file_name; found nothing"),
        ("file_name,text\na.png,x,y\n", "line 2, has 3 fields, the header 2"),
        ("file_name,text\n,x\n", "line 2, has file_name ''"),
        ("file_name,text\nx.png,x\n", r"line 2, names 'x\.png', which is no picture"),
        ('file_name,text\na.png,"x\n', "is not readable"),
        ("file_name,text,prompt\na.png,x,y\n", "line 2, has text 'x' and prompt 'y': keep one"),
    ],
)
def test_mistakes_in_metadata_csv_name_the_line(tmp_path, text, message):
    write(tmp_path / "a.png")
    csv_file(tmp_path, text)
    with pytest.raises(NelboError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("suffix", [".txt", ".caption"])
def test_captions_beside_the_pictures(tmp_path, suffix):
    for name in ("a.png", "b.jpg", "sub/é.png", "d.png"):
        write(tmp_path / name)
    (tmp_path / f"a{suffix}").write_text("an a\n")
    (tmp_path / f"b{suffix}").write_text("\ufeffa bee\n\nand more\n", "utf-8")
    (tmp_path / "sub" / f"é{suffix}").write_text(" é ")  # decomposed
    (tmp_path / f"d{suffix}").write_text("")
    (tmp_path / "LICENSE.txt").write_text("no caption")
    data = load(tmp_path)
    of = dict(zip(data.names, data.captions, strict=True))
    assert of == {"a.png": "an a", "b.jpg": "a bee", "sub/é.png": "é", "d.png": None}
    assert "1 picture has several captions, of which the first is taken" in data.notes
    assert any("1 file of another kind left out: .txt 1" in note for note in data.notes)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            ("metadata.jsonl", '{"file_name": "a.png", "text": "one"}\n' * 2),
            ("metadata.jsonl", '{"file_name": "./a.png", "text": "two"}'),
            r"line 3, has the caption 'two' of 'a\.png', and .*jsonl, line 1 has 'one'",
        ),
        (
            ("metadata.jsonl", '{"file_name": "a.png", "label": 1}\n'),
            ("metadata.jsonl", '{"file_name": "a.png", "label": 2}'),
            r"line 2, has the label 2 of 'a\.png', and .*jsonl, line 1 has 1",
        ),
        (
            ("metadata.jsonl", '{"file_name": "a.png", "text": "one"}'),
            ("metadata.csv", "file_name,text\na.png,two\n"),
            r"metadata\.jsonl, line 1, has .* and .*metadata\.csv, line 2 has 'two'",
        ),
        (
            ("metadata.jsonl", '{"file_name": "a.png", "text": "one"}'),
            ("a.txt", "two"),
            r"a\.txt has the caption 'two' of 'a\.png', and .*line 1 has 'one'",
        ),
        (("a.caption", "one"), ("a.txt", "two"), r"a\.txt has .* and .*a\.caption has 'one'"),
    ],
)
def test_two_captions_or_labels_of_one_picture_name_both_places(tmp_path, first, second, message):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    for name, text in (first, second):
        with (tmp_path / name).open("a") as file:
            file.write(text)
    with pytest.raises(NelboError, match=message):
        load(tmp_path)


def test_the_same_said_twice_is_no_contradiction(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    row = {"file_name": "a.png", "text": "one"}
    metadata(tmp_path, row, row, {"file_name": "a.png", "label": "x"})
    data = load(tmp_path)
    assert set(data.captions) == {"one", None}
    assert data.label_names == ("x",)


@pytest.mark.parametrize("field", ["text", "caption", "prompt"])
def test_captions_by_any_of_their_names_and_in_lists(tmp_path, field):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    metadata(
        tmp_path,
        {"file_name": "a.png", field: "one"},
        {"file_name": "b.png", field: ["two", "zwei"]},
    )
    data = load(tmp_path)
    assert dict(zip(data.names, data.captions, strict=True)) == {"a.png": "one", "b.png": "two"}
    assert "1 picture has several captions, of which the first is taken" in data.notes


@pytest.mark.parametrize("blank", ["", "  "])
def test_blank_texts_are_none(tmp_path, blank):
    """As exporters write what is missing: a caption beside one was refused, a class had no name."""
    for i, name in enumerate("abc"):
        write(tmp_path / f"{name}.png", i)
    metadata(
        tmp_path,
        {"file_name": "a.png", "text": blank, "prompt": "one", "label": blank},
        {"file_name": "b.png", "text": [blank, "two"], "label": "x"},
        {"file_name": "c.png", "text": blank, "caption": [blank], "label": "y"},
    )
    data = load(tmp_path)
    captions = dict(zip(data.names, data.captions, strict=True))
    assert captions == {"a.png": "one", "b.png": "two", "c.png": None}
    assert data.label_names == ("x", "y")
    assert dict(zip(data.names, data.labels.tolist(), strict=True))["a.png"] == -1
    assert not any("several captions" in note for note in data.notes)


def test_one_and_its_text_are_one_class(tmp_path):
    for i in range(5):
        write(tmp_path / f"{i}.png", i)
    labels = (1, "1", 2.0, "2", "10")
    metadata(tmp_path, *({"file_name": f"{i}.png", "label": v} for i, v in enumerate(labels)))
    data = load(tmp_path)
    assert data.label_names == ("1", "2", "10")
    classes = dict(zip(data.names, data.labels.tolist(), strict=True))
    assert classes == {"0.png": 0, "1.png": 0, "2.png": 1, "3.png": 1, "4.png": 2}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_metadata_in_another_form_of_unicode(tmp_path, form):
    import unicodedata

    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    for i, name in enumerate(("é.png", "ü.png")):
        write(tmp_path / unicodedata.normalize(form, name), i)
    written = [unicodedata.normalize(other, name) for name in ("é.png", "ü.png")]
    metadata(
        tmp_path, {"file_name": written[0], "text": "e"}, {"file_name": written[1], "text": "u"}
    )
    assert set(load(tmp_path).captions) == {"e", "u"}
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "captions.txt").write_text(f"{written[0]}\te\n{written[1]}\tu\n", "utf-8")
    assert set(load(tmp_path).captions) == {"e", "u"}


def test_a_broken_picture_beside_class_folders_changes_nothing(tmp_path):
    for i in range(12):
        write(tmp_path / ("cat" if i % 2 else "dog") / f"{i}.png", i)
    whole = load(tmp_path)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    data = load(tmp_path)
    assert data.label_names == whole.label_names == ("cat", "dog")
    assert torch.equal(data.labels, whole.labels)
    assert data.names == whole.names
    assert {line.split(":")[0] for line in data.skipped} == {"empty.jpg", "gone.png"}


def test_a_picture_at_the_top_takes_the_classes_with_a_note(tmp_path):
    for i in range(4):
        write(tmp_path / ("cat" if i % 2 else "dog") / f"{i}.png", i)
    assert not load(tmp_path).notes
    write(tmp_path / "cover.png", 9)
    data = load(tmp_path)
    assert data.labels is None
    assert data.notes == (
        "the 2 folders are no classes, because 1 picture lies in none of them, such as cover.png",
    )


def test_half_a_character_is_marked(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "cat \\ud83d", "label": "x\\udc00"}\n'
    )
    data = load(tmp_path)
    assert "cat \ufffd" in data.captions
    assert data.label_names == ("x\ufffd",)
