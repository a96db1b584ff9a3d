"""Splits are of pictures that can be read; one rule of resizing; sizes of any proportions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from nelbo import NelboError
from nelbo.data import load_data
from nelbo.data.declared import are_declared, split_note, split_pictures
from nelbo.data.mentions import mention
from nelbo.data.splits import EmptySplitError, share
from tests.data.pictures import write


def table(path, pictures, **columns):
    datasets = pytest.importorskip("datasets")
    features = {"image": datasets.Image()}
    content = {"image": pictures, **columns}
    rows = datasets.Dataset.from_dict(content)
    rows = rows.cast_column("image", features["image"])
    rows.to_parquet(str(path))
    return str(path)


def sizes(source: str, size=6) -> dict[str, int]:
    found = {}
    for split in ("train", "validation", "test", "all"):
        try:
            found[split] = len(load_data(source, split, size=size))
        except EmptySplitError:
            found[split] = 0
    return found


def content(value: int) -> dict:
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 6), value, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.parametrize("broken", range(5))
def test_a_small_folder_with_a_broken_picture_has_its_splits(tmp_path, broken):
    for i in range(5):
        write(tmp_path / f"{i}.png", i)
    (tmp_path / f"{broken}.png").write_text("x")
    assert sizes(str(tmp_path)) == {"train": 2, "validation": 1, "test": 1, "all": 4}
    left = sorted(set(range(5)) - {broken})
    test = load_data(str(tmp_path), "test", size=6)
    if not any(share(f"{i}.png") < 0.1 for i in left):
        assert test.names == (min((f"{i}.png" for i in left), key=share),)
    # The pixels go with their names, however the images were moved.
    everything = load_data(str(tmp_path), "all", size=6)
    values = [f"{int(image.max())}.png" for image in everything.images]
    assert values == list(everything.names)
    assert torch.equal(everything.pixel_keys, load_data(str(tmp_path), "all", size=6).pixel_keys)


def test_a_large_folder_keeps_its_splits_when_some_break(tmp_path):
    for i in range(60):
        write(tmp_path / f"{i}.png", i)
    before = {s: set(load_data(str(tmp_path), s, size=6).names) for s in ("train", "test")}
    for i in range(0, 60, 7):
        (tmp_path / f"{i}.png").write_text("x")
    broken = {f"{i}.png" for i in range(0, 60, 7)}
    for split, names in before.items():
        assert set(load_data(str(tmp_path), split, size=6).names) == names - broken


@pytest.mark.parametrize("rows", [3, 5, 8, 10])
def test_a_small_table_has_its_splits(tmp_path, rows):
    source = table(tmp_path / "t.parquet", [content(i) for i in range(rows)])
    assert sizes(source) == {"train": rows - 2, "validation": 1, "test": 1, "all": rows}


def test_a_table_whose_tenth_row_is_broken(tmp_path):
    pictures = [content(i) for i in range(10)]
    pictures[9] = {"bytes": b"x", "path": None}
    found = sizes(table(tmp_path / "t.parquet", pictures))
    assert found == {"train": 7, "validation": 1, "test": 1, "all": 9}


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("test", ["test", "Testing", "TEST"])
def test_folders_for_splits_by_any_of_their_names(tmp_path, train, test):
    for i in range(6):
        write(tmp_path / train / "ab"[i % 2] / f"{i}.png", i)
        write(tmp_path / test / "ab"[i % 2] / f"{i}.png", 10 + i)
    data = load_data(str(tmp_path), "test", size=6)
    assert sorted(data.images[:, 0, 0, 0].tolist()) == list(range(10, 16))
    assert data.label_names == ("a", "b")
    (tmp_path / "broken.png").write_text("x")
    again = load_data(str(tmp_path), "test", size=6)
    assert again.names == data.names
    assert again.label_names == ("a", "b")


def test_what_lies_beside_the_splits_is_noted():
    names = ["cover.png", "test/a.png", "train/b.png"]
    assert not are_declared(names)
    note = split_note(names, True)
    assert "test/ and train/ are not read as splits, because cover.png lies beside them" in note
    assert set(split_pictures(names, True)) == {"train", "test", "validation"}
    assert split_note(["train/a.png", "other/b.png"], True) is None
    assert "extra/ lies beside" in split_note(["Train/a.png", "val/b.png", "extra/c.png"], True)


def test_folders_and_tables_refuse_other_sizes_alike(tmp_path):
    folder = tmp_path / "pictures"
    for i in range(4):
        write(folder / f"{i}.png", i)
    array = np.full((30, 40), 9, np.uint8)
    Image.fromarray(array).save(folder / "wide.png")
    files = sorted(map(str, folder.iterdir()))
    parquet = table(tmp_path / "t.parquet", files)
    (tmp_path / "tables").mkdir()
    table(tmp_path / "tables" / "part.parquet", files)
    for source, name in ((folder, "wide.png"), (parquet, "train #4"), (tmp_path / "tables", "#4")):
        for _ in range(2):  # decoded anew, and from the cache
            with pytest.raises(NelboError, match=rf"{name} is 30×40, .* takes 6×6: give --resize"):
                load_data(str(source), "all", size=6, resize=False)
            assert len(load_data(str(source), "all", size=6)) == 5
        (tmp_path / "empty").mkdir(exist_ok=True)
    (folder / "wide.png").unlink()
    assert len(load_data(str(folder), "all", size=6, resize=False)) == 4


def test_a_picture_turned_by_exif_has_the_size_that_it_is_seen_in(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(3):
        Image.fromarray(np.full((16, 24), i, np.uint8)).save(tmp_path / f"{i}.png", exif=exif)
    assert load_data(str(tmp_path), "all", size="24x16", resize=False).shape == (1, 24, 16)
    with pytest.raises(NelboError, match="is 24×16, the model takes 16×24"):
        load_data(str(tmp_path), "all", size=(16, 24), resize=False)


@pytest.mark.parametrize("size", ["8x12", (8, 12), "8×12"])
def test_sizes_that_are_not_square(tmp_path, size, few_emoji):
    array = np.zeros((20, 20), np.uint8)
    array[:10] = 200
    for i in range(3):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    data = load_data(str(tmp_path), "all", size=size)
    assert data.shape == (1, 8, 12)
    assert (data.images[:, :, 0] == 200).all()
    assert (data.images[:, :, -1] == 0).all()
    emoji = load_data("emoji", "test", size="6x9") if size == "8x12" else None
    assert emoji is None or emoji.shape == (3, 6, 9)


def test_notes_count_the_pictures_and_name_one(tmp_path):
    frames = [Image.fromarray(np.full((6, 6), value, np.uint8)) for value in (40, 200)]
    for name in ("a.gif", "b.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    red = np.zeros((6, 6, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).save(tmp_path / "red.png")
    data = load_data(str(tmp_path), "all", size=6, channels=1)
    assert len(data.notes) == 2
    assert any("1 of 3 pictures has colours: read as grey (red.png)" in n for n in data.notes)
    assert any("2 of 3 pictures have several frames: the first is taken" in n for n in data.notes)


def test_what_several_splits_were_adapted_by_is_mentioned_once(tmp_path, capsys):
    frames = [Image.fromarray(np.full((6, 6), value, np.uint8)) for value in (40, 200)]
    for split in ("train", "validation", "test"):
        for k in range(2):
            file = tmp_path / split / f"{k}.gif"
            file.parent.mkdir(exist_ok=True)
            frames[0].save(file, save_all=True, append_images=frames[1:])
    mention(*(load_data(str(tmp_path), split) for split in ("train", "validation", "test")))
    assert capsys.readouterr().err.count("6 of 6 pictures have several frames") == 1


def test_labels_and_captions_of_tables(tmp_path):
    source = table(
        tmp_path / "t.parquet",
        [content(i) for i in range(4)],
        caption=[["one", "uno"], ["two"], [], ["four"]],
        label=[1.0, 2.0, None, 10.0],
    )
    data = load_data(source, "all", size=6)
    values = data.images[:, 0, 0, 0].tolist()
    assert dict(zip(values, data.captions, strict=True)) == {0: "one", 1: "two", 2: None, 3: "four"}
    assert data.label_names == ("1", "2", "10")
    assert dict(zip(values, data.labels.tolist(), strict=True)) == {0: 0, 1: 1, 2: -1, 3: 2}
    assert any("1 of 4 pictures has several captions" in note for note in data.notes)
    lists = table(tmp_path / "u.parquet", [content(0), content(1)], label=[[1, 2], [3]])
    data = load_data(lists, "all", size=6)
    assert data.labels is None
    assert any("neither a string nor a whole number" in note for note in data.notes)
