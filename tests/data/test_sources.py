"""Data sources: the embedded digits, and folders of pictures as people have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits as sklearn_digits

from nelbo import NelboError
from nelbo.data import ImageData, load_data
from nelbo.data.sources import absolute, is_local


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def grey(height=10, width=10, value=100):
    return np.full((height, width), value, dtype=np.uint8)


def test_embedded_digits_are_scikit_learns():
    expected = sklearn_digits()
    digits = load_data("digits", "all")
    assert np.array_equal(digits.images[:, 0].numpy(), expected.images.astype(np.uint8))
    assert np.array_equal(digits.labels.numpy(), expected.target)
    assert digits.levels == 17
    assert digits.images.max() == 16


def test_digit_splits_do_not_overlap():
    train, validation, test = (
        load_data("digits", split) for split in ("train", "validation", "test")
    )
    assert (len(train), len(validation), len(test)) == (1332, 166, 299)
    assert not set(validation.names) & {*train.names, *test.names}
    assert all(int(name.removeprefix("digits #")) % 6 == 5 for name in test.names)
    assert not set(train.names) & set(test.names)
    assert test.shape == (1, 8, 8)


def test_folder_is_read_recursively_and_split_by_path(tmp_path):
    for i in range(25):
        write(tmp_path / f"sub{i % 3}" / f"{i:02}.png", grey(value=i))
    train, validation, test, everything = (
        load_data(str(tmp_path), split, size=8) for split in ("train", "validation", "test", "all")
    )
    assert train.names + validation.names + test.names == everything.names
    assert len(everything) == 25
    assert 1 <= len(test) <= 6
    assert train.shape == (1, 8, 8)
    assert train.levels == 256
    values = {
        name: int(image[0, 0, 0])
        for name, image in zip(everything.names, everything.images, strict=True)
    }
    assert values["sub0/03.png"] == 3


def test_pictures_are_cropped_at_the_centre_then_resized(tmp_path):
    picture = np.zeros((10, 30), dtype=np.uint8)
    picture[:, 10:20] = 200
    for name in "ab":
        write(tmp_path / f"{name}.png", picture)
    data = load_data(str(tmp_path), "all", size=4)
    assert torch.equal(data.images, torch.full((2, 1, 4, 4), 200, dtype=torch.uint8))


def test_kinds_of_pictures(tmp_path):
    colour = np.zeros((6, 6, 3), dtype=np.uint8)
    colour[..., 0] = 255
    write(tmp_path / "colour.png", colour)
    write(tmp_path / "photo.JPG", colour)
    write(tmp_path / "photo.jpeg", colour)
    transparent = np.zeros((6, 6, 4), dtype=np.uint8)
    write(tmp_path / "transparent.png", transparent)
    write(tmp_path / "deep.png", np.full((6, 6), 200 * 256, dtype=np.uint16))
    rotated = Image.fromarray(np.repeat(np.arange(6, dtype=np.uint8)[:, None] * 40, 6, 1))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    rotated.save(tmp_path / "turned.png", exif=exif)
    (tmp_path / "notes.txt").write_text("not a picture")
    data = load_data(str(tmp_path), "all", size=6)
    images = dict(zip(data.names, data.images, strict=True))
    assert data.shape == (3, 6, 6)
    assert "notes.txt" not in images
    assert images["colour.png"][:, 0, 0].tolist() == [255, 0, 0]
    assert images["photo.JPG"][0, 0, 0] > 240
    assert images["transparent.png"].min() == 255  # transparency is white
    assert images["deep.png"][:, 0, 0].tolist() == [200, 200, 200]
    assert images["turned.png"][0, 0, 0] == 200  # its last row is up
    luma = load_data(str(tmp_path), "all", size=6, channels=1)
    assert luma.images[list(luma.names).index("colour.png"), 0, 0, 0] == 76


def test_unreadable_pictures_are_named_and_skipped(tmp_path):
    good = write(tmp_path / "good.png", grey())
    write(tmp_path / "other.png", grey())
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:-30])
    data = load_data(str(tmp_path), "all", size=8)
    assert set(data.names) == {"good.png", "other.png"}
    assert [line.split(":")[0] for line in data.skipped] == ["cut.png", "empty.png", "text.jpg"]
    assert not any("file file" in line or str(tmp_path) in line for line in data.skipped)


def test_mistakes_are_explained(tmp_path):
    with pytest.raises(NelboError, match=r"unknown data 'digitz'.*digits"):
        load_data("digitz")
    with pytest.raises(NelboError, match=r"holds no \.png, \.jpg"):
        load_data(str(tmp_path))
    with pytest.raises(NelboError, match="unknown split 'valid'"):
        load_data("digits", "valid")
    with pytest.raises(NelboError, match="channels must be"):
        load_data("digits", channels=2)
    with pytest.raises(NelboError, match=r"shape \(1, 8, 8\)"):
        load_data("digits", size=16)
    (tmp_path / "broken.png").write_text("x")
    with pytest.raises(NelboError, match=r"none of the 1 pictures .* broken\.png"):
        load_data(str(tmp_path), "all")
    with pytest.raises(NelboError, match="is a file"):
        load_data(str(tmp_path / "broken.png"))
    with pytest.raises(NelboError, match="none of the 1 pictures"):
        load_data(str(tmp_path), "test")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("pictures.zip", "Unpack it, and give the folder"),
        ("pictures.tar.gz", "Unpack it"),
        ("pictures.npy", "Save its pictures as image files in a folder"),
        ("one.PNG", "Give the folder that it lies in"),
    ],
)
def test_a_file_of_pictures_is_refused_with_what_to_do(tmp_path, name, remedy):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(NelboError, match=f"{name} is a file; expected .*hub:USER/NAME. {remedy}"):
        load_data(str(tmp_path / name))


def test_levels_outside_the_declared_ones_are_refused():
    images = torch.full((2, 1, 4, 4), 17, dtype=torch.uint8)
    with pytest.raises(
        NelboError, match=r"17 pixel levels but holds pixel level 17; expected 0\.\.16"
    ):
        ImageData("mine", images, 17, ("a", "b"))
    with pytest.raises(NelboError, match="2 images but 3 labels"):
        ImageData("mine", images, 18, ("a", "b"), labels=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(NelboError, match="no images"):
        ImageData("mine", images[:0], 18, ())


def test_a_run_called_as_its_data_is_not_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "digits" / "samples" / "final.png", grey())
    assert is_local("digits")  # a folder of pictures that is called so
    (tmp_path / "digits" / "config.yaml").write_text("data: digits")
    assert not is_local("digits")
    assert absolute("digits") == "digits"
    assert load_data("digits", "test").shape == (1, 8, 8)


def test_labels_of_fewer_bits_have_a_place_for_none():
    labels = torch.tensor([0, 1], dtype=torch.int8)
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    data = ImageData("mine", images, 17, ("a", "b"), labels=labels, label_names=("c", "d"))
    assert data.labels.dtype == torch.int64
