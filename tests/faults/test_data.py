"""Pictures that are broken, folders that cannot be read, decoding that is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from nelbo import NelboError
from nelbo.data import ImageData, decode, folder, load_data
from nelbo.data.mentions import mention
from tests.children import Child
from tests.commands.conftest import TINY
from tests.data.pictures import write
from tests.faults.test_mistakes import mistake


@pytest.fixture
def pictures(tmp_path) -> Path:
    for i in range(24):
        write(tmp_path / "pictures" / f"{i:02}.png", i)
    return tmp_path / "pictures"


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "cut":
        content = content[: len(content) // 2]
    elif kind == "flipped":  # in the compressed pixels
        content[len(content) - 20] ^= 0xFF
    else:
        content = bytearray(b"<html>not found</html>")
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["cut", "flipped", "replaced"])
def test_a_corrupt_picture_in_the_middle_is_skipped_and_named(pictures, kind):
    damage(pictures / "11.png", kind)
    data = load_data(str(pictures), "all", size=6)
    assert len(data) == 23
    assert [line.split(":")[0] for line in data.skipped] == ["11.png"]
    assert {int(image.max()) for image in data.images} == set(range(24)) - {11}
    # the others are in the split they were in
    names = load_data(str(pictures), "test", size=6).names
    (pictures / "11.png").unlink()
    assert load_data(str(pictures), "test", size=6).names == names


def test_a_picture_corrupted_after_decoding_does_not_stop_an_epoch(pictures):
    data = load_data(str(pictures), "train", size=6)
    damage(pictures / data.names[3], "cut")
    assert sum(len(batch) for batch in data.batches(5)) == len(data)


def test_a_reader_that_fails_in_any_way_costs_one_picture(pictures, monkeypatch):
    """Pillow's readers leak other errors than OSError on damaged files."""
    real = decode.prepare

    def fails(image, size, channels):
        if image.getpixel((0, 0)) == 5:
            raise MemoryError
        return real(image, size, channels)

    monkeypatch.setattr(decode, "prepare", fails)
    data = load_data(str(pictures), "all", size=6)
    assert data.skipped == ("05.png: MemoryError",)
    assert len(data) == 23


def test_a_dying_decoder_ends_with_its_error_and_no_half_cache(pictures, monkeypatch):
    """What is no fault of a picture is not skipped: every picture after it would be too."""

    def dies(*_, **__):
        raise SystemError("the decoder is gone")

    root = Path(os.environ["NELBO_CACHE"]) / "images"
    load_data(str(pictures), "all", size=7)
    before = {path.name for path in root.iterdir() if path.is_dir()}
    with monkeypatch.context() as patch:
        patch.setattr("nelbo.data.folder.read_crops", dies)
        with pytest.raises(SystemError, match="the decoder is gone"):
            load_data(str(pictures), "all", size=6)
    assert {path.name for path in root.iterdir() if path.is_dir()} == before
    assert len(load_data(str(pictures), "all", size=6)) == 24


def test_sigkill_while_decoding_leaves_no_half_cache(pictures, tmp_path, monkeypatch):
    """Killed at picture 20 of 24; the next start decodes all and sweeps up what was left."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("NELBO_CACHE", str(cache))
    child = Child(_killed_at_picture_20, pictures, log=tmp_path / "log")
    assert child.join() == -signal.SIGKILL, child.message
    left = [path for path in (cache / "images").iterdir() if path.is_dir()]
    assert [".partial-" in path.name for path in left] == [True]
    assert len(load_data(str(pictures), "all", size=6)) == 24
    after = [path for path in (cache / "images").iterdir() if path.is_dir()]
    assert len(after) == 1
    assert ".partial-" not in after[0].name


def _killed_at_picture_20(pictures: Path) -> None:
    real = folder.read_crops

    def read(path: Path, *rest: object, **options: object) -> object:
        if path.name == "20.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path, *rest, **options)

    folder.read_crops = read
    load_data(str(pictures), "all", size=6)


def test_what_a_killed_process_left_of_other_folders_goes_in_time(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("NELBO_CACHE", str(tmp_path / "cache"))
    old, new = (tmp_path / "cache" / "images" / f"{n}-.partial-x" for n in ("old", "new"))
    for directory in (old, new):
        directory.mkdir(parents=True)
    day_before = time.time() - 2 * 86400
    os.utime(old, (day_before, day_before))
    load_data(str(pictures), "all", size=6)
    assert not old.exists()
    assert new.exists()  # somebody may be writing it


def test_one_broken_picture_alone(tmp_path):
    (tmp_path / "a.png").write_text("x")
    for split in ("train", "all"):
        with pytest.raises(
            NelboError, match=r"none of the 1 pictures .* a\.png: no picture of a known format"
        ):
            load_data(str(tmp_path), split)


def test_one_good_picture_alone(tmp_path):
    write(tmp_path / "a.png")
    assert len(load_data(str(tmp_path), "all")) == 1
    with pytest.raises(NelboError, match="holds one picture; a test split needs at least two"):
        load_data(str(tmp_path), "test")


def test_folders_that_cannot_be_listed(pictures, monkeypatch):
    (pictures / "locked").mkdir()
    real = os.scandir

    def locked(path):
        if Path(path).name in refused:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", locked)
    refused = ["locked"]
    data = load_data(str(pictures), "all", size=6)
    assert len(data) == 24
    assert data.skipped == ("locked: cannot be listed: Permission denied",)
    refused = ["pictures"]
    with pytest.raises(NelboError, match="pictures cannot be listed: Permission denied"):
        load_data(str(pictures), "all", size=6)


def test_links_in_a_circle_and_hidden_files(pictures):
    (pictures / "again").symlink_to(pictures)
    (pictures / "._00.png").write_text("what another system left")
    write(pictures / ".thumbnails" / "x.png")
    data = load_data(str(pictures), "all", size=6)
    assert len(data) == 24
    assert not data.skipped


def test_skipped_files_are_named_once(capsys):
    import torch

    images = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    both = [
        ImageData("mine", images, 256, ("a",), skipped=(name, "sub: cannot be listed"))
        for name in ("x: broken", "y: broken")
    ]
    mention(*both)
    said = capsys.readouterr().err
    assert "skipped 3 files of mine" in said
    assert said.count("sub: cannot be listed") == 1


def test_data_that_a_run_remembers_but_is_gone(run_path, tmp_path, capsys):
    import json
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run_path, copy)
    notes = json.loads((copy / "nelbo.json").read_text()) | {"source": str(tmp_path / "gone")}
    (copy / "nelbo.json").write_text(json.dumps(notes))
    message = mistake(capsys, "evaluate", copy)
    assert (
        f"was trained on {tmp_path / 'gone'}, which is not there any more: give --data" in message
    )


def test_a_size_that_does_not_fit_the_disk(pictures, tmp_path, capsys, monkeypatch):
    usage = type("usage", (), {"free": 10**6})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    out = ["--out", tmp_path / "run", "--steps", "1", *TINY]
    message = mistake(capsys, "train", pictures, "--size", "4000", *out)
    assert "24 pictures of 1×4000×4000 need 0.4 GB" in message
    assert "size must lie in 1..8192" in mistake(capsys, "train", pictures, "--size", "9000", *out)
