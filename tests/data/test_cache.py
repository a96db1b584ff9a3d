"""The cache: decoded once, whole or not there, bounded, and larger than memory."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from nelbo import NelboError
from nelbo.base.digest import digest
from nelbo.data import cache, load_data
from nelbo.data import folder as folder_module
from nelbo.data.cache import Picture, cached
from nelbo.data.cache_room import evict
from tests.data.pictures import write

SHAPE = (1, 2, 2)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("NELBO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def picture(i: int, split: str = "train") -> Picture:
    return Picture(f"{i}", np.full(SHAPE, i, dtype=np.uint8), split, label=i)


def entries(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


def test_splits_are_views_of_one_file(root):
    order = ("train", "test", "validation", "test", "validation", "train")
    pictures = [picture(i, split) for i, split in enumerate(order)]
    pictures.append(Picture("bad", "no picture", "test"))
    entry = cached(["a"], 0, SHAPE, lambda: iter(pictures))
    assert entry.names == ("0", "5", "2", "4", "1", "3")
    assert entry.labels == (0, 5, 2, 4, 1, 3)
    assert entry.images[:, 0, 0, 0].tolist() == [0, 5, 2, 4, 1, 3]
    assert entry.splits_of("all") == ("train",) * 2 + ("validation",) * 2 + ("test",) * 2
    for split, places in (("train", [0, 5]), ("validation", [2, 4]), ("test", [1, 3])):
        images = entry.images[entry.stretch(split)]
        assert images[:, 0, 0, 0].tolist() == places
        assert images.untyped_storage().data_ptr() == entry.images.untyped_storage().data_ptr()
        assert entry.splits_of(split) == (split,) * 2
    assert entry.skipped_of("test") == ("bad: no picture",)
    assert entry.skipped_of("all") == ("bad: no picture",)
    assert entry.skipped_of("train") == entry.skipped_of("validation") == ()
    assert [path.name for path in sorted(entries(root)[0].iterdir())] == [
        *("images.bin", "index.json", "keys.bin"),
    ]


def test_second_time_nothing_is_decoded(root):
    first = cached(["a"], 0, SHAPE, lambda: iter([picture(7)]))

    def never():
        raise AssertionError("decoded again")

    second = cached(["a"], 0, SHAPE, never)
    assert torch.equal(first.images, second.images)
    # new content of the same place replaces the old
    cached(["a"], 1, SHAPE, lambda: iter([picture(8)]))
    assert len(entries(root)) == 1


def test_changing_the_images_leaves_the_cache(root):
    entry = cached(["a"], 0, SHAPE, lambda: iter([picture(7)]))
    entry.images.fill_(1)
    assert cached(["a"], 0, SHAPE, list).images.unique().tolist() == [7]  # type: ignore[arg-type]


def test_an_interrupted_decode_leaves_nothing(root):
    def interrupted():
        yield picture(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(["a"], 0, SHAPE, interrupted)
    assert entries(root) == []


@pytest.mark.parametrize("damage", ["images.bin", "index.json"])
def test_a_damaged_entry_is_decoded_again(root, damage):
    cached(["a"], 0, SHAPE, lambda: iter([picture(1), picture(2)]))
    file = entries(root)[0] / damage
    file.write_bytes(file.read_bytes()[:-3])
    entry = cached(["a"], 0, SHAPE, lambda: iter([picture(3)]))
    assert entry.names == ("3",)


def test_least_recently_used_entries_are_removed(root, monkeypatch):
    for i in range(3):
        cached([i], 0, SHAPE, lambda: iter([picture(1)] * 100))
        used = time.time() - 100 + i
        os.utime(entries_of(root, i) / "index.json", (used, used))
    cached([0], 0, SHAPE, list)  # type: ignore[arg-type]  # used now
    monkeypatch.setenv("NELBO_CACHE_GB", str(1200e-9))  # three entries of 400 bytes
    cached([3], 0, SHAPE, lambda: iter([picture(1)] * 100))
    kept = {path.name.split("-")[0] for path in entries(root)}
    assert kept == {entries_of(root, i).name.split("-")[0] for i in (0, 2, 3)}
    monkeypatch.setenv("NELBO_CACHE_GB", "much")
    with pytest.raises(NelboError, match="NELBO_CACHE_GB is 'much'"):
        cached([4], 0, SHAPE, lambda: iter([picture(1)]))


def entries_of(root: Path, place: int) -> Path:
    where = cache._digest([cache._VERSION, place, SHAPE])
    return next(root.glob(f"{where}-*"), root / where)


def test_no_room_is_said_before_anything_is_decoded(root):
    def never():
        raise AssertionError("decoded")

    with pytest.raises(NelboError, match=r"need 12,000\.0 GB in .* GB are free.*NELBO_CACHE"):
        cached(["a"], 0, (3, 2000, 2000), never, at_most=10**6)


def test_a_full_disk_is_explained_and_leaves_nothing(root):
    def full():
        yield picture(1)
        raise OSError(28, "No space left on device")

    with pytest.raises(NelboError, match=r"No space left on device.*NELBO_CACHE"):
        cached(["a"], 0, SHAPE, full)
    assert entries(root) == []


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NELBO_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(NelboError, match=r"NELBO_CACHE is .*file"):
        cached(["a"], 0, SHAPE, lambda: iter([picture(1)]))
    monkeypatch.delenv("NELBO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(UserWarning, match="cannot be written; name another"):
        assert len(cached(["a"], 0, SHAPE, lambda: iter([picture(1)])).images) == 1


def test_folder_is_decoded_once_until_a_picture_changes(root, tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    for i in range(4):
        write(folder / f"{i}.png", i)
    before = load_data(str(folder), "all", size=4)
    read = []

    def counted(path, *args, **options):
        read.append(path.name)
        return real(path, *args, **options)

    real = folder_module.read_crops
    monkeypatch.setattr(folder_module, "read_crops", counted)
    for split in ("train", "test", "all"):
        load_data(str(folder), split, size=4)
    assert read == []
    write(folder / "2.png", 200, side=9)
    after = load_data(str(folder), "all", size=4)
    assert sorted(read) == ["0.png", "1.png", "2.png", "3.png"]
    assert after.names == before.names
    assert after.images[after.names.index("2.png")].unique().tolist() == [200]


def test_a_picture_that_could_not_be_read_this_time_is_read_the_next(root, tmp_path, monkeypatch):
    """A file whose disk or network fails once must not be left out for ever."""
    folder = tmp_path / "pictures"
    for i in range(4):
        write(folder / f"{i}.png", i)
    opened = Path.open

    def failing(file, *args, **options):
        if str(file).endswith("2.png"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(file, *args, **options)

    monkeypatch.setattr(Path, "open", failing)
    data = load_data(str(folder), "all", size=4)
    assert data.skipped == ("2.png: Input/output error",)
    assert data.images.flatten(1)[:, 0].sort().values.tolist() == [0, 1, 3]
    assert entries(root) == []
    monkeypatch.setattr(Path, "open", opened)
    assert load_data(str(folder), "all", size=4).skipped == ()
    assert len(entries(root)) == 1


def test_a_picture_is_read_once_its_permissions_allow_it(root, tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    for i in range(4):
        write(folder / f"{i}.png", i)
    (folder / "2.png").chmod(0)
    opened = Path.open

    def permitted(file, *args, **options):
        # root may read everything
        if file.suffix == ".png" and not file.stat().st_mode & 0o400:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(file, *args, **options)

    monkeypatch.setattr(Path, "open", permitted)
    assert load_data(str(folder), "all", size=4).skipped == ("2.png: Permission denied",)
    assert len(entries(root)) == 1
    (folder / "2.png").chmod(0o600)
    assert load_data(str(folder), "all", size=4).skipped == ()


def test_an_entry_that_another_process_removes_is_still_read(root, monkeypatch):
    """As one does that finds the folder changed."""

    def removing(root, keep):
        shutil.rmtree(keep)
        evict(root, keep)

    monkeypatch.setattr(cache, "evict", removing)
    entry = cached(["a"], 0, SHAPE, lambda: iter([picture(7)]))
    assert entry.images.unique().tolist() == [7]


def test_two_that_start_together_decode_once(root):
    """The lock belongs to the open file, so that threads stand in for processes here."""
    decoded = []

    def slowly():
        for i in range(20):
            decoded.append(i)
            time.sleep(0.005)
            yield picture(i)

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(cached, ["a"], 0, SHAPE, slowly) for _ in range(2)]
        first, second = (job.result() for job in jobs)
    assert decoded == list(range(20))
    assert torch.equal(first.images, second.images)


def test_pictures_on_white_lie_where_they_lay_before_there_were_other_grounds(root, tmp_path):
    write(tmp_path / "p" / "a.png")
    load_data(tmp_path / "p", "all", size=4, channels=1, background="contrast")
    load_data(tmp_path / "p", "all", size=4, channels=1)
    place = ["folder", str((tmp_path / "p").resolve()), True, 1]
    digests = [
        digest([json.dumps([7, *place, *more, [1, 4, 4]])], size=10) for more in ([], ["contrast"])
    ]
    assert sorted(entry.name.split("-")[0] for entry in entries(root)) == sorted(digests)
