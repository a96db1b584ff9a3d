"""nelbo compress and decompress: pictures to bytes and back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nelbo import coding
from nelbo.cli import main
from nelbo.formats import Pipeline


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    """Grey pictures of 17 levels, one of another size than the model's."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    files = []
    for name, shape in (("a", (8, 8)), ("b", (8, 8)), ("wide", (5, 11))):
        files.append(folder / f"{name}.png")
        Image.fromarray(random.integers(0, 17, shape, dtype=np.uint8), "L").save(files[-1])
    return files


@pytest.fixture(scope="module")
def archive(run_path, pictures, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("archive") / "new" / "some.nelbo"
    main(["compress", str(run_path), *map(str, pictures), "--out", str(out), "--steps", "3"])
    return out


def mistake(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_pictures_come_back_as_files(archive, pictures, tmp_path, capsys):
    main(["decompress", str(archive), "--out", str(tmp_path / "back"), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["pictures"] == 3
    assert printed["decode_per_second"] > 0
    for file in pictures:
        with Image.open(file) as given, Image.open(tmp_path / "back" / file.name) as back:
            assert np.array_equal(np.array(given), np.array(back))


def test_progress_is_of_all_tiles_in_each_pass(run_path, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("nelbo.base.console._MINUTE", 0.0)
    out = str(tmp_path / "some.nelbo")
    main(["compress", str(run_path), *map(str, pictures), "--out", out, "--steps", "3"])
    main(["decompress", out, "--out", str(tmp_path / "back")])
    lines = [line for line in capsys.readouterr().err.splitlines() if " of " in line]
    assert lines[0] == "Compressing: 0 of 4"  # the wide picture is of two tiles
    assert lines.index("Reading back: 0 of 4") == lines.index("Compressing: 4 of 4") + 1
    assert lines.count("Reading back: 4 of 4") == 2


def test_names_of_folders_and_of_others(run_path, tmp_path):
    """Folders come back as folders; no name leads out of them, and none takes another's file."""
    pipeline = Pipeline.open(str(run_path))
    images = torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).expand(12, 1, 8, 8)
    names = ["cats/a.png", "dogs/a.png", "../a.png", "/a", "c:\\b.jpg", "..", "\udcff.png"]
    names += ["x-00009.png", "x", "x.png"]
    names += ["é" * 125 + ".jpg", "é" * 125 + ".png"]  # as long as a name can be, or nearly
    archive = tmp_path / "some.nelbo"
    archive.write_bytes(coding.compress(pipeline.model(), images, names=names, steps=1))
    out = tmp_path / "a" / "back"
    main(["decompress", str(archive), "--run", str(run_path), "--out", str(out)])
    found = ["cats/a.png", "dogs/a.png", "a.png", "a-00003.png", "c_/b.jpg.png", "00005.png"]
    found += ["_xff.png", "x-00009.png", "x.png", "x-00009-00009.png"]
    found += ["é" * 120 + ".png", "é" * 120 + "-00011.png"]
    assert [np.array(Image.open(out / name)).max() for name in found] == list(range(12))
    assert len([*tmp_path.rglob("*.png")]) == 12


def test_a_full_disk_leaves_no_part_of_a_picture(archive, tmp_path, capsys, monkeypatch):
    def full(self, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Image.Image, "save", full)
    message = mistake(capsys, "decompress", archive, "--out", tmp_path / "back")
    assert "a.png: No space left on device" in message
    assert [*tmp_path.rglob("*.png")] == []


def test_an_estimate_writes_nothing(run_path, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["compress", str(run_path), *map(str, pictures), "--steps", "3", "--estimate", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["standard_error"] > 0
    assert printed["first_draws_bytes"] > 0
    assert {"PNG", "WebP", "raw"} <= printed["other_formats"].keys()
    assert list(tmp_path.iterdir()) == []


def test_an_estimate_of_one_picture_has_no_error(run_path, pictures, capsys):
    main(["compress", str(run_path), str(pictures[0]), "--steps", "2", "--estimate"])
    shown = capsys.readouterr().out
    assert "bytes by the bound" in shown
    assert "for 1 picture with 2 levels" in shown
    assert "nan" not in shown


def test_a_data_set_is_compressed_as_it_is(run_path, tmp_path, capsys):
    out = tmp_path / "test.nelbo"
    options = ["--data", "digits", "--steps", "1", "--no-verify", "--json"]
    main(["compress", str(run_path), *options, "--out", str(out)])
    printed = json.loads(capsys.readouterr().out)
    assert printed["bytes"] == out.stat().st_size
    assert printed["encode_per_second"] > 0
    assert coding.contents(out.read_bytes())["count"] == 299


def test_coarse_to_fine(run_path, pictures, tmp_path, capsys):
    file, short = tmp_path / "a.nbp", tmp_path / "short.nbp"
    rate = ["--bits-per-pixel", "1.5", "--steps", "4"]
    main(["compress", str(run_path), str(pictures[0]), *rate, "--out", str(file), "--json"])
    assert json.loads(capsys.readouterr().out)["bytes"] == file.stat().st_size <= 9 + 12
    short.write_bytes(file.read_bytes()[:-4])
    assert "does not name its model" in mistake(capsys, "decompress", file, "--out", tmp_path / "n")
    for each in (file, short):
        main(["decompress", str(each), "--run", str(run_path), "--out", str(tmp_path / each.stem)])
        with Image.open(tmp_path / each.stem / f"{each.stem}.png") as back:
            assert back.size == (8, 8)


def test_damage(archive, tmp_path, capsys):
    broken = bytearray(archive.read_bytes())
    broken[-9] ^= 1
    file = tmp_path / "broken.nelbo"
    file.write_bytes(broken)
    message = mistake(capsys, "decompress", file, "--out", tmp_path / "a")
    assert "block 1 of 1, pictures 1 to 3: its checksum is wrong; --recover reads" in message
    main(["decompress", str(file), "--out", str(tmp_path / "b"), "--recover"])
    shown = capsys.readouterr()
    assert "0 of 3 pictures" in shown.out
    assert "lost: block 1 of 1" in shown.err
    assert "no nelbo archive" in mistake(capsys, "decompress", __file__, "--out", tmp_path / "c")


def test_a_caption_is_for_a_coarse_picture(archive, tmp_path, capsys):
    message = mistake(capsys, "decompress", archive, "--out", tmp_path / "a", "--caption", "a cat")
    assert "an archive, which holds its captions" in message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--quality", "50", "--block", "8"], "--block is for archives, which are lossless"),
        (["--bits-per-pixel", "1", "--fast"], "--fast is for archives"),
        (["--quality", "50", "--no-verify"], "--no-verify is for archives"),
        (["--estimate", "--no-verify"], "--no-verify has no effect on --estimate"),
        (["--estimate", "--out", "a.nelbo"], "--out has no effect on --estimate"),
        (["--split", "train"], "--split takes effect with --data only"),
        (["--resize"], "--resize takes effect with --data only"),
        (["--quality", "50", "--caption", "a"], "reads no text, and was given captions"),
    ],
)
def test_an_option_without_effect_is_refused(
    given, message, run_path, pictures, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert message in mistake(capsys, "compress", run_path, pictures[0], *given)
    assert list(tmp_path.iterdir()) == []


def test_options_that_do_not_fit_a_coarse_picture_are_refused(run_path, tmp_path, capsys):
    pipeline = Pipeline.open(str(run_path))
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    file, to = tmp_path / "a.nbp", ["--run", run_path, "--out", tmp_path / "back"]
    file.write_bytes(coding.compress_progressive(pipeline.model(), image, 8, steps=2))
    assert "--recover is for archives" in mistake(capsys, "decompress", file, *to, "--recover")
    assert "reads no text" in mistake(capsys, "decompress", file, *to, "--caption", "a cat")


def test_captions_of_a_data_set_are_its_own_or_one_for_all(run_path, capsys):
    message = mistake(
        capsys, "compress", run_path, "--data", "digits", "--caption", "a", "--caption", "b"
    )
    assert "2 captions were given for the images of --data: give one for all" in message


def test_files_of_one_name_keep_their_folders(run_path, pictures, tmp_path, monkeypatch):
    files = [tmp_path / folder / "a.png" for folder in ("cats", "dogs")]
    for file, picture in zip(files, pictures, strict=False):
        file.parent.mkdir()
        file.write_bytes(picture.read_bytes())
    monkeypatch.chdir(tmp_path / "cats")
    given = ["a.png", str(files[1]), "--steps", "1", "--out", "../a.nelbo"]
    main(["compress", str(run_path), *given])
    main(["decompress", str(tmp_path / "a.nelbo"), "--out", str(tmp_path / "back")])
    for file in files:
        with (
            Image.open(file) as one,
            Image.open(tmp_path / "back" / file.parent.name / "a.png") as b,
        ):
            assert np.array_equal(np.array(one), np.array(b))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_pipes_are_read_and_not_replaced(run_path, pictures, archive, tmp_path, capsys):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for device in (pipe, "/dev/stdout", "/dev/new", "/dev/fd/1"):
        message = mistake(capsys, "compress", run_path, pictures[0], "--out", device)
        assert f"{device} is a device or a pipe; give the name of a file" in message
    assert pipe.is_fifo()
    source, sink = os.pipe()
    with os.fdopen(sink, "wb") as written:
        written.write(archive.read_bytes())
    main(["decompress", f"/dev/fd/{source}", "--run", str(run_path), "--out", str(tmp_path / "b")])
    assert len([*(tmp_path / "b").iterdir()]) == 3
    os.close(source)


def test_a_file_of_another_kind_is_not_replaced_by_an_archive(
    run_path, pictures, archive, tmp_path, capsys
):
    own = run_path / "nelbo.json"
    before = own.read_bytes()
    message = mistake(capsys, "compress", run_path, pictures[0], "--out", own)
    assert "nelbo.json is there already and is no archive: give another file" in message
    assert own.read_bytes() == before
    empty, link = tmp_path / "empty.nelbo", tmp_path / "link.nelbo"
    empty.touch()
    link.symlink_to(empty)
    rate = ["--quality", "0", "--steps", "1"]  # the least that there is to compute
    for _ in range(2):  # also where an archive is
        main(["compress", str(run_path), str(pictures[0]), "--out", str(link), *rate])
    assert link.is_symlink()
    assert coding.is_progressive(empty.read_bytes())


def test_mistakes(run_path, pictures, archive, tmp_path, capsys):
    out = ["--out", tmp_path / "new.nelbo"]
    first, second = pictures[:2]
    colours, high = tmp_path / "colours.png", tmp_path / "high.png"
    Image.new("RGB", (8, 8)).save(colours)
    Image.new("L", (8, 8), 200).save(high)
    assert "give either pictures" in mistake(capsys, "compress", run_path, *out)
    assert "'a.png' is given to more than one" in mistake(
        capsys, "compress", run_path, first, second, first, *out
    )
    assert "3 channels, the model has 1" in mistake(capsys, "compress", run_path, colours, *out)
    assert "pixel level 200, the model has levels 0..16" in mistake(
        capsys, "compress", run_path, high, *out
    )
    assert "is a folder: give the pictures in it" in mistake(
        capsys, "compress", run_path, tmp_path, *out
    )
    before = first.read_bytes()
    assert "a.png is one of the pictures" in mistake(
        capsys, "compress", run_path, first, second, "--out", first.parent / "." / first.name
    )
    assert first.read_bytes() == before
    assert "lies among the pictures of" in mistake(
        capsys, "compress", run_path, "--data", first.parent, "--out", first.parent / "c.png"
    )
    assert "reads no text, and was given captions" in mistake(
        capsys, "compress", run_path, first, *out, "--caption", "a"
    )
    assert "--quality must lie in 0..100, got 140" in mistake(
        capsys, "compress", run_path, first, *out, "--quality", 140
    )
    assert "wide.png is 5×11, and a picture is coded coarse to fine in the size of" in mistake(
        capsys, "compress", run_path, pictures[2], *out, "--quality", 40
    )
    assert "steps must lie in 1..20" in mistake(
        capsys, "compress", run_path, first, *out, "--steps", "21"
    )
    assert "there is no archive" in mistake(capsys, "decompress", "none", "--out", tmp_path / "d")
    assert "is a folder: give an archive" in mistake(
        capsys, "decompress", run_path, "--out", tmp_path / "d"
    )
    assert not (tmp_path / "new.nelbo").exists()


def test_a_full_disk_leaves_nothing(run_path, pictures, tmp_path, capsys, monkeypatch):
    def full(file: Path, content: bytes) -> int:
        with file.open("wb") as half:
            half.write(content[: len(content) // 2])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    message = mistake(
        capsys, "compress", run_path, pictures[0], "--out", tmp_path / "x.nelbo", "--steps", "2"
    )
    assert "No space left on device; nothing was written" in message
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_its_extra(run_path, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "constriction", None)
    message = mistake(capsys, "compress", run_path, pictures[0], "--out", tmp_path / "x.nelbo")
    assert "nelbo[coding]" in message
