"""Which pictures below a folder are data."""

from __future__ import annotations

from pathlib import Path

import pytest

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
