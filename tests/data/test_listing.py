"""Which pictures below a folder are data."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from nelbo import NelboError
from nelbo.data import formats
from nelbo.data.listing import list_pictures, would_be_listed
from tests.data.pictures import write


@pytest.mark.parametrize(
    "name",
    [
        *("new.png", "new.WEBP", "cat/new.png", "new/folder/new.gif", "new.txt", ".new.png"),
        *(".hidden/new.png", "run/new.png", "run/samples/new.png", "../new.png"),
        "../mine2/new.png",
    ],
)
def test_would_be_listed_foretells_what_is_listed(tmp_path, monkeypatch, name):
    folder = tmp_path / "mine"
    write(folder / "cat" / "a.png")
    (folder / "run").mkdir()
    (folder / "run" / "nelbo.json").write_text("{}")
    before = {file.name for file in list_pictures(folder).files}
    foretold = would_be_listed(folder, folder / name)
    monkeypatch.chdir(folder)
    assert would_be_listed(Path("."), Path(name)) == foretold
    source = write(tmp_path / "source.png")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    source.rename(folder / name)
    assert ({file.name for file in list_pictures(folder).files} != before) == foretold


def test_files_of_other_kinds_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "suffixes", lambda: frozenset(formats.PLAIN))
    write(tmp_path / "a.png")
    for i in range(10):
        (tmp_path / f"{i}.HEIC").write_bytes(b"x")
    for name in ("clip.mp4", "README", "drawing.svg", "Thumbs.db", ".hidden.txt", "captions.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "metadata.jsonl").write_text("")
    assert list_pictures(tmp_path).left_out == (
        "13 files of other kinds left out: .heic 10 (pip install 'nelbo[heic]'), without a suffix "
        "1, .mp4 1, .svg 1 (pip install 'nelbo[emoji]')"
    )
    (tmp_path / "a.png").unlink()
    with pytest.raises(NelboError, match=r"picture that can be read here.*\.heic 10 \(pip install"):
        list_pictures(tmp_path)


@pytest.mark.parametrize("name", ["a.jfif", "a.JPE", "a.tiff", "a.TIF", "a.bmp", "a.apng", "a.pgm"])
def test_kinds_that_pillow_reads_are_listed(tmp_path, name):
    write(tmp_path / "a.png").rename(tmp_path / name)
    assert [file.name for file in list_pictures(tmp_path).files] == [name]


def test_dead_links_and_what_is_no_file_are_named(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / ".git" / "annex" / "gone")
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    os.mkfifo(tmp_path / "pipe.png")
    listing = list_pictures(tmp_path)
    assert [file.name for file in listing.files] == ["a.png"]
    assert listing.unreadable["gone.png"] == "a link to nothing"
    assert listing.unreadable["pipe.png"] == "no ordinary file"
    assert "round.png" in listing.unreadable


@pytest.mark.parametrize("backwards", [False, True])
def test_a_folder_that_links_lead_to_is_listed_at_its_own_place(tmp_path, monkeypatch, backwards):
    """Whatever order the file system lists names in: it would decide splits and classes."""
    folder = tmp_path / "mine"
    write(folder / "zebra" / "young" / "a.png")
    write(tmp_path / "elsewhere" / "b.png")
    (folder / "alias").symlink_to("zebra/young")
    (folder / "zebra" / "loop").symlink_to(folder)
    (folder / "first").symlink_to(tmp_path / "elsewhere")
    (folder / "second").symlink_to(tmp_path / "elsewhere")
    scandir = os.scandir

    @contextmanager
    def ordered(path):
        with scandir(path) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name, reverse=backwards))

    monkeypatch.setattr(os, "scandir", ordered)
    listing = list_pictures(folder)
    assert [file.name for file in listing.files] == ["first/b.png", "zebra/young/a.png"]
    assert not listing.unreadable
