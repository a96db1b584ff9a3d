"""Names of files and folders that are not UTF-8, as old archives and Windows leave them."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nelbo.cli import main
from nelbo.data import load_data
from nelbo.data.splits import share
from tests.commands.conftest import TINY
from tests.conftest import reports
from tests.faults.conftest import BRIEF
from tests.faults.test_mistakes import mistake

LATIN = os.fsdecode(b"n\xe9e")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two classes of pictures with bytes in every part of their names, and a broken one."""
    folder = tmp_path_factory.mktemp("names") / LATIN
    random = np.random.default_rng(0)
    for kind in (os.fsdecode(b"c\xe9t"), "dog"):
        (folder / kind).mkdir(parents=True)
        for i in range(10):
            pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / os.fsdecode(b"p\xff%d.png" % i))
    (folder / "dog" / os.fsdecode(b"br\xe9ken.png")).write_text("x")
    return folder


@pytest.fixture(scope="module")
def run(folder) -> Path:
    out = folder.parent / "run"
    options = ["--size", "8", "--class-conditional", *BRIEF]
    main(["train", str(folder), "--out", str(out), "--steps", "3", *options, *TINY])
    return out


def names(table: Path) -> set[str]:
    """The pictures that a table names."""
    with table.open(encoding="utf-8", newline="") as opened:
        return {row["name"] for row in csv.DictReader(opened)}


def test_names_are_shown_in_ascii_and_split_as_they_are(folder):
    data = load_data(str(folder), "all", size=8)
    assert data.source.endswith(r"n\xe9e")
    assert data.label_names == (r"c\xe9t", "dog")
    assert r"c\xe9t/p\xff3.png" in data.names
    assert data.skipped == (r"dog/br\xe9ken.png: no picture of a known format",)
    test = load_data(str(folder), "test", size=8).names
    least = min(
        (
            os.fsdecode(b"%s/p\xff%d.png" % (kind, i))
            for kind in (b"c\xe9t", b"dog")
            for i in range(10)
        ),
        key=share,
    )
    assert os.fsencode(least).decode("utf-8", "backslashreplace") in test


def test_every_command_reads_and_writes_them(folder, run, tmp_path, capsys):
    assert json.loads((run / "nelbo.json").read_text("utf-8"))["source"] == str(folder)
    assert r"n\xe9e" in (run / "report.html").read_text("utf-8")
    options = ["--levels", "2", "--out"]
    main(["evaluate", str(run), *options, str(tmp_path / "bounds")])
    main(["rank", str(run), *options, str(tmp_path / "ranking")])
    main(["classify", str(run), "--split", "all", "--draws", "2", "--out", str(tmp_path / "c.csv")])
    everything = {rf"{kind}/p\xff{i}.png" for kind in (r"c\xe9t", "dog") for i in range(10)}
    assert names(tmp_path / "c.csv") == everything
    ranked = names(tmp_path / "ranking" / "ranking.csv")
    assert ranked == set(load_data(str(folder), "test", size=8).names) & everything
    assert r"c\xe9t/p\xff4.png" in ranked
    assert (tmp_path / "ranking" / "ranking.html").read_text("utf-8")
    assert (tmp_path / "bounds" / "images.csv").read_text("utf-8")
    with reports(False):
        main(["train", "--resume", "--out", str(run), "--steps", "4"])
    main(["report", str(run), "--images", "4"])
    capsys.readouterr()
    main(["data", str(folder), "--size", "8"])
    assert r"c\xe9t" in capsys.readouterr().out


def test_a_run_in_such_a_place_is_refused(folder, tmp_path, capsys):
    out = tmp_path / LATIN
    message = mistake(capsys, "train", folder, "--out", out, "--steps", "1", *TINY)
    assert r"n\xe9e is not UTF-8" in message
    assert not out.exists()
