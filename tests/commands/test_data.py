"""nelbo data: what a source holds."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from nelbo.cli import main
from tests.data.pictures import write


@pytest.fixture
def mine(tmp_path):
    folder = tmp_path / "mine"
    for i in range(12):
        write(folder / ("cat" if i % 3 else "dog") / f"{i}.png", i, colour=True)
    (folder / "cat" / "bad.png").write_text("x")
    long = "a [bold] cat " + "and so on " * 20
    rows = [{"file_name": f"cat/{i}.png", "text": long if i == 1 else "a cat"} for i in (1, 2)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_json_says_what_a_folder_holds(mine, tmp_path, capsys):
    sheet = tmp_path / "new" / "sheet.png"
    main(["data", str(mine), "--size", "6", "--json", "--sheet", str(sheet), "--sheet-images", "9"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["images"] == 12
    assert sum(printed["splits"].values()) == 12
    assert printed["shape"] == {"channels": 3, "height": 6, "width": 6}
    assert printed["levels"] == 256
    assert {name: counts["all"] for name, counts in printed["labels"].items()} == {
        "cat": 8,
        "dog": 4,
    }
    for counts in printed["labels"].values():
        assert sum(counts[split] for split in printed["splits"]) == counts["all"]
    assert printed["captions"]["images"] == printed["captions"]["different"] == 2
    assert printed["captions"]["longest"].startswith("a [bold] cat and so on")
    assert printed["skipped"][0].startswith("cat/bad.png: ")
    assert Image.open(sheet).size == (3 * (126 + 15) + 15,) * 2


def test_table_says_the_same(mine, capsys):
    main(["data", str(mine), "--size", "6"])
    shown = capsys.readouterr()
    for words in ("12 (", "3×6×6", "256", "cat", "dog", "a [bold] cat and so on", "…"):
        assert words in shown.out
    assert "skipped 1 file" in shown.err
    assert "cat/bad.png" in shown.err


def test_sources_without_labels_or_splits(tmp_path, capsys):
    write(tmp_path / "one" / "a.png")
    main(["data", str(tmp_path / "one"), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["images"], printed["splits"], printed["labels"]) == (1, {}, None)
    main(["data", "digits"])
    shown = capsys.readouterr().out
    assert ", 299 test)" in shown
    assert "validation" in shown


def test_lines_of_pictures_that_are_gone_are_listed(mine, capsys):
    (mine / "cat" / "2.png").unlink()
    with (mine / "metadata.jsonl").open("a") as file:
        for i in range(30):
            row = {"file_name": f"cat/gone{i}.png", "label": "ghost"}
            file.write("\n" + json.dumps(row))
    main(["data", str(mine), "--size", "6", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["images"] == 11
    assert printed["captions"]["images"] == 1
    assert set(printed["labels"]) == {"cat", "dog"}  # not that of what is gone
    assert printed["unmatched"][:2] == [
        "metadata.jsonl, line 2: cat/2.png",
        "metadata.jsonl, line 3: cat/gone0.png",
    ]
    assert len(printed["unmatched"]) == 31
    main(["data", str(mine), "--size", "6"])
    shown = capsys.readouterr()
    assert "31 lines name no picture" in shown.out
    assert "metadata.jsonl, line 2: cat/2.png" in shown.err
    assert "and 11 more" in shown.err


def test_lines_of_captions_txt_that_are_of_none_are_listed(tmp_path, capsys):
    for name in ("a", "b"):
        write(tmp_path / "few" / f"{name}.png")
    (tmp_path / "few" / "captions.txt").write_text("a.png\tone\n\ngone.png\ttwo\n")
    main(["data", str(tmp_path / "few"), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["captions"]["first"] == ["one"]
    assert printed["unmatched"] == ["captions.txt, line 3: gone.png"]
    main(["data", str(tmp_path / "few")])
    assert "1 line names no picture" in capsys.readouterr().out


def test_mistakes(tmp_path, capsys):
    for arguments, message in (
        (["cats"], "unknown data 'cats'"),
        (["digits", "--sheet", "x.txt"], "must name a .png"),
        (["digits", "--sheet-images", "0"], "at least 1"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(["data", *arguments])
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err
