"""Controls of pictures: what annotators make of them, and pictures that are given."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from nelbo.base.errors import MissingExtraError, NelboError
from nelbo.data import ImageData, load_data
from nelbo.data.annotators import ANNOTATORS, subject
from nelbo.data.controls import controls_of

SIDE = 32


def rectangle(ground=(255, 255, 255)) -> np.ndarray:
    """A red rectangle with a hole of the colour of the ground."""
    picture = np.full((SIDE, SIDE, 3), ground, np.uint8)
    picture[8:24, 4:28] = (200, 20, 20)
    picture[14:18, 14:18] = ground
    return picture


def data(pictures: list[np.ndarray], levels: int = 256) -> ImageData:
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return ImageData("made", images, levels, tuple(f"{i}.png" for i in range(len(images))))


@pytest.mark.parametrize("ground", [(255, 255, 255), (0, 0, 0), (90, 120, 60)])
def test_the_subject_is_what_the_ground_does_not_reach(ground):
    expected = np.zeros((SIDE, SIDE), bool)
    expected[8:24, 4:28] = True  # with its hole, which the ground outside does not reach
    assert np.array_equal(subject(rectangle(ground)), expected)


def test_what_annotators_show():
    of = {name: controls_of(name, data([rectangle()])) for name in ANNOTATORS}
    made = {name: each.of_all(data([rectangle()])).controls[0].numpy() for name, each in of.items()}
    assert all(each.shape == (3, SIDE, SIDE) for each in made.values())
    inside = np.zeros((SIDE, SIDE), bool)
    inside[8:24, 4:28] = True
    assert np.array_equal(made["mask"][0] > 0, inside)
    border = inside.copy()
    border[9:23, 5:27] = False
    assert np.array_equal(made["outline"][0] > 0, border)
    # Nearer in the middle than at the edge, and nothing outside.
    depth = made["depth-like"][0].astype(int)
    assert depth[~inside].max() == 0
    assert depth[16, 12] == 255 > depth[9, 12] > depth[8, 12] > 0
    cells = made["colours"].transpose(1, 2, 0)[::4, ::4]
    means = rectangle().reshape(8, 4, 8, 4, 3).mean((1, 3))
    assert np.abs(cells - means).max() <= 1
    edges = np.abs(np.diff(rectangle()[..., 1].astype(int), axis=1)).astype(bool)
    assert made["canny"][0][10:13, 3:6].any()
    assert made["canny"][0][edges.sum(1) == 0].sum() < made["canny"][0].sum()


def test_scribbles_are_drawn_anew_from_the_same_outline():
    images = data([rectangle()] * 3)
    controls = controls_of("scribble", images)
    every = torch.arange(3)
    first, again = (controls.of(images.images, every, (0, 1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, controls.of(images.images, every, (0, 2)))
    assert not torch.equal(first[0], first[1])
    outline, rest = (controls_of(name, images).of_all(images) for name in ("outline", "canny"))
    lines = torch.maximum(outline.controls[0, 0], rest.controls[0, 0]).nonzero().float()
    for drawing in controls.of(images.images.repeat(8, 1, 1, 1), torch.arange(24), (3,)):
        drawn = (drawing[0] > 64).nonzero().float()
        assert 20 < len(drawn) < 500
        # Its lines are off by a pixel or two.
        assert torch.cdist(drawn, lines).min(1).values.mean() < 2.5


def test_grey_images_of_few_levels():
    picture = np.zeros((8, 8, 1), np.uint8)
    picture[2:6, 2:6] = 16
    made = controls_of("mask", data([picture], 17)).of_all(data([picture], 17)).controls
    assert torch.equal(made[0, 0] > 0, torch.from_numpy(picture[..., 0] > 0))


def test_taken_with_their_images():
    images = data([rectangle(), rectangle((0, 0, 0))])
    with_controls = controls_of("canny", images).of_all(images)
    assert torch.equal(with_controls.take(slice(1, 2)).controls, with_controls.controls[1:])
    assert with_controls.resize(16, 16).controls is None
    with pytest.raises(NelboError, match="2 images but 1 controls"):
        replace(images, controls=with_controls.controls[:1])


def test_a_folder_of_controls(tmp_path):
    images = data([rectangle(), rectangle((0, 0, 0))])
    for i, colour in enumerate(["red", "blue"]):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{i}.jpg", quality=100)
    given = controls_of(str(tmp_path), images)
    found = given.of(images.images[1:], torch.tensor([1]), (0,))
    assert found.shape == (1, 3, SIDE, SIDE)
    assert found[0, :, 0, 0].tolist()[2] > 250
    (tmp_path / "1.jpg").unlink()
    Image.new("RGB", (64, 64), "green").save(tmp_path / "2.png")
    message = "holds 2 controls, and none for 1 of the 2 images of made; the first is 1.png"
    with pytest.raises(NelboError, match=message):
        controls_of(str(tmp_path), images)
    (tmp_path / "1.jpg").write_text("no picture")
    with pytest.raises(NelboError, match=r"2 controls \(cannot be read: 1.jpg: .*\), and none"):
        controls_of(str(tmp_path), images)


@pytest.fixture
def folder_with_sketches(tmp_path):
    pictures, sketches = tmp_path / "pictures", tmp_path / "sketches"
    pictures.mkdir()
    sketches.mkdir()
    lines = []
    for name, colour in (("é.png", "red"), ("b.png", "green"), ("a.png", "blue")):
        Image.new("RGB", (20, 10), "white").save(pictures / name)
        Image.new("RGB", (40, 20), colour).save(sketches / f"of {name}")
        lines.append({"file_name": name, "text": colour, "sketch": f"../sketches/of {name}"})
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return pictures


def test_controls_that_the_metadata_names(folder_with_sketches):
    images = load_data(str(folder_with_sketches), "all", size=8)
    controls = controls_of("sketch", images).of_all(images)
    for caption, control in zip(images.captions, controls.controls, strict=True):
        red, green, blue = control[:, 4, 4].tolist()
        brightest = {"red": red, "green": green, "blue": blue}
        assert max(brightest, key=brightest.get) == caption
    in_csv = "file_name,sketch_file_name\n" + "\n".join(
        f"{name},../sketches/of {name}" for name in ("a.png", "b.png", "é.png")
    )
    (folder_with_sketches / "metadata.jsonl").unlink()
    (folder_with_sketches / "metadata.csv").write_text(in_csv, "utf-8")
    assert torch.equal(
        controls_of("sketch", images).of(images.images, torch.arange(3), (0,)), controls.controls
    )


def test_controls_that_the_metadata_names_wrongly(folder_with_sketches):
    images = load_data(str(folder_with_sketches), "all", size=8)
    with pytest.raises(NelboError, match=r"--control 'sketches'.*column of the table or metadata"):
        controls_of("sketches", images)
    (folder_with_sketches.parent / "sketches" / "of b.png").unlink()
    with pytest.raises(NelboError, match=r"line 2, names the sketch .*of b\.png: "):
        controls_of("sketch", images)
    metadata = folder_with_sketches / "metadata.jsonl"
    lines = metadata.read_text("utf-8").splitlines()
    metadata.write_text("\n".join(lines[1:]), "utf-8")
    with pytest.raises(
        NelboError, match=r"a sketch for 2 pictures, and none for 1 of the 3 images"
    ):
        controls_of("sketch", images)
    metadata.write_text(json.dumps({"file_name": "a.png", "sketch": 3}), "utf-8")
    with pytest.raises(NelboError, match="has sketch 3; expected a path"):
        controls_of("sketch", images)


def test_crops_have_no_controls_but_those_that_are_cut_with_them(folder_with_sketches):
    images = load_data(f"{folder_with_sketches}?crops=2", "train", size=4)
    for control in ("sketch", str(folder_with_sketches.parent / "sketches")):
        with pytest.raises(NelboError, match=r"several crops of each picture.*leave crops out"):
            controls_of(control, images)
    whole = load_data(f"{folder_with_sketches}?crops=1", "train", size=4)
    with pytest.raises(NelboError, match="name each control as its picture"):
        controls_of(str(folder_with_sketches.parent / "sketches"), whole)


def test_controls_in_a_table_are_cut_with_their_pictures(tmp_path):
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (40, 30, 3), np.uint8)) for _ in range(4)]
    columns = {"image": pictures, "sketch": pictures}
    features = datasets.Features({name: datasets.Image() for name in columns})
    datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / "both.parquet")
    images = load_data(f"{tmp_path / 'both.parquet'}?crops=3&image=image", "train", size=8)
    assert len({image.numpy().tobytes() for image in images.images[:3]}) == 3
    assert torch.equal(controls_of("sketch", images).of_all(images).controls, images.images)


# (side, side), 1 where there is ink.
INK = np.zeros((SIDE, SIDE), np.uint8)
INK[10:14, 4:28] = 1


def sketch(path, level: int, mode: str = "RGBA"):
    """Ink of a grey level on transparency, whose colour is that of the ink."""
    path.parent.mkdir(exist_ok=True)
    if mode == "P":
        palette = Image.fromarray(INK, "P")
        palette.putpalette([level] * 6)
        palette.save(path, transparency=0)
        return path
    grey = np.full_like(INK, level)
    channels = [grey] * (1 if mode == "LA" else 3) + [255 * INK]
    Image.fromarray(np.stack(channels, -1), mode).save(path, lossless=True)
    return path


def laid(level: int, ground: int) -> torch.Tensor:
    return torch.from_numpy(np.where(INK == 1, level, ground)).byte().expand(3, SIDE, SIDE)


KINDS = [("P", "png"), ("LA", "png"), ("RGBA", "png"), ("RGBA", "webp")]


@pytest.mark.parametrize(("mode", "suffix"), KINDS)
def test_light_lines_on_nothing_are_laid_on_black_in_a_folder(tmp_path, mode, suffix):
    for name, level in (("0", 255), ("1", 200), ("2", 20)):
        sketch(tmp_path / f"{name}.{suffix}", level, mode)
    images = data([rectangle()] * 3)
    learned = load_data(tmp_path, "all", size=SIDE, channels=3)
    found = controls_of(str(tmp_path), images).of_all(images).controls
    expected = torch.stack([laid(255, 0), laid(200, 0), laid(20, 255)])
    assert torch.equal(found, expected)
    # Images to learn stay on white, whichever was read first.
    again = load_data(tmp_path, "all", size=SIDE, channels=3)
    for read in (learned, again):
        order = [read.names.index(f"{i}.{suffix}") for i in range(3)]
        assert torch.equal(
            read.images[order], torch.stack([laid(255, 255), laid(200, 255), laid(20, 255)])
        )


@pytest.mark.parametrize(("mode", "suffix"), KINDS)
def test_light_lines_on_nothing_are_laid_on_black_where_metadata_names_them(tmp_path, mode, suffix):
    drawn = sketch(tmp_path / "sketches" / f"light.{suffix}", 255, mode)
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (SIDE, SIDE), "white").save(tmp_path / "pictures" / "a.png")
    line = {"file_name": "a.png", "sketch": f"../sketches/{drawn.name}"}
    (tmp_path / "pictures" / "metadata.jsonl").write_text(json.dumps(line), "utf-8")
    images = load_data(tmp_path / "pictures", "all", size=SIDE)
    assert torch.equal(controls_of("sketch", images).of_all(images).controls[0], laid(255, 0))


@pytest.mark.parametrize(("mode", "suffix"), KINDS)
def test_light_lines_on_nothing_are_laid_on_black_in_a_column(tmp_path, mode, suffix):
    drawn = sketch(tmp_path / f"light.{suffix}", 255, mode).read_bytes()
    features = datasets.Features({name: datasets.Image() for name in ("image", "sketch")})
    table = {name: [{"bytes": drawn, "path": None}] for name in features}
    datasets.Dataset.from_dict(table, features).to_parquet(tmp_path / "t" / "both.parquet")
    images = load_data(f"{tmp_path / 't' / 'both.parquet'}?image=image", "all", size=SIDE)
    assert torch.equal(images.images[0], laid(255, 255))
    assert torch.equal(controls_of("sketch", images).of_all(images).controls[0], laid(255, 0))
    # So it is where the picture serves as its own control.
    assert torch.equal(controls_of("image", images).of_all(images).controls[0], laid(255, 0))


def test_mistakes(monkeypatch):
    with pytest.raises(NelboError, match=r"background 'green'.*white"):
        load_data("digits", background="green")
    with pytest.raises(NelboError, match=r"--control 'cany'.*canny"):
        controls_of("cany", data([rectangle()]))
    with pytest.raises(NelboError, match=r"--control '': expected an annotator"):
        controls_of("", data([rectangle()]))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"nelbo\[control\]"):
        controls_of("canny", data([rectangle()]))
