"""Results that cannot be written and commands that are interrupted: told at once, nothing lost."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from nelbo.base.errors import NelboError
from nelbo.cli import main
from nelbo.commands.groups import check_out
from tests.children import PATIENCE
from tests.faults.test_mistakes import mistake, snapshot

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_where_nothing_can_be_written(run_path, tmp_path, capsys, monkeypatch):
    def too_late(*args, **kwargs):
        raise AssertionError("the model was loaded before the output was looked at")

    monkeypatch.setattr("nelbo.networks.UNet.from_pretrained", too_late)
    file = tmp_path / "file"
    file.write_text("mine")
    for command, option in (
        (("evaluate", run_path), "--out"),
        (("rank", run_path), "--out"),
        (("classify", run_path), "--out"),
        (("data", "digits"), "--sheet"),
        (("edit", run_path, "--image", "x.png"), "--out"),
    ):
        within = file / "sub" / "x.png"
        assert f"{file} is a file" in mistake(capsys, *command, option, within)
    folder = tmp_path / "x.png"
    folder.mkdir()
    for command in (("classify", run_path), ("edit", run_path, "--image", "x.png")):
        assert f"{folder} is a directory" in mistake(capsys, *command, "--out", folder)
    for command in ("evaluate", "rank"):
        assert f"{file} is a file" in mistake(capsys, command, run_path, "--out", file)
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("evaluate", "RUN", "--split", "dev"), "unknown split 'dev'"),
        (("evaluate", "RUN", "--data", "digit"), "unknown data 'digit' (did you mean digits?)"),
        (("evaluate", "RUN", "--levels", "optimal", "--steps", "3"), "run nelbo fit"),
        (("evaluate", "RUN", "--device", "moon"), "device 'moon'"),
        (("rank", "RUN", "--out", "new", "--data", "cats"), "unknown data 'cats'"),
        (("classify", "RUN", "--data", "cats"), "unknown data 'cats'"),
        (("classify", "RUN", "--prompt-file", "none.txt"), "cannot read --prompt-file none.txt"),
        (("classify", "RUN", "--prompt-file", "twice.txt"), "holds 'cat' twice"),
        (("classify", "RUN", "--prompt-file", "one.txt"), "needs at least 2 prompts"),
        (("classify", "RUN", "--template", "a photo"), "has no {} for the class"),
        (("classify", "RUN", "--margin", "0"), "--margin must be a positive number, got 0"),
        (("classify", "RUN", "--draws", "1"), "--draws must be at least 2, got 1"),
        (("classify", "RUN", "--device", "moon"), "device 'moon'"),
        (("compare", "cats", "--runs", "RUN", "RUN"), "unknown data 'cats'"),
        (("compare", "digits", "--runs", "RUN", "gone"), "no directory gone"),
        (("likelihood", "RUN", "--split", "dev"), "unknown split 'dev'"),
        (("likelihood", "RUN", "--trace", "full"), "unknown --trace 'full'"),
        (("likelihood", "RUN", "--dequantization", "x"), "unknown --dequantization 'x'"),
        (("likelihood", "RUN", "--draws", "2"), "exact"),
        (("fit", "RUN", "--data", "cats"), "unknown data 'cats'"),
        (("fit", "RUN", "--levels", "0"), "--levels must be at least 1, got 0"),
        (("report", "RUN", "--data", "cats"), "unknown data 'cats'"),
        (("report", "RUN", "--device", "moon", "--out", "new"), "device 'moon'"),
        (("export", "RUN", "--out", "full"), "is not empty"),
        (("sample", "RUN", "--steps", "21"), "1..20"),
        (("sample", "RUN", "--spacing", "even"), "unknown spacing"),
        (("sample", "RUN", "--sampler", "dpm"), "unknown --sampler 'dpm'"),
        (("sample", "RUN", "--guidance", "nan"), "must be a finite number"),
        (("sample", "RUN", "--levels", "optimal", "--steps", "3"), "run nelbo fit"),
        (("sample", "RUN", "--prompt-file", "none.txt"), "cannot read --prompt-file none.txt"),
        (("sample", "RUN", "--files", "one.txt"), "--files one.txt is a file"),
        (("sample", "RUN", "--device", "moon"), "device 'moon'"),
        (("edit", "RUN", "--image", "gone.png"), "there is no picture gone.png"),
        (("edit", "RUN", "--image", "one.txt"), "one.txt is no picture of a known format"),
        (("edit", "RUN", "--image", "x.png", "--mask", "gone.png"), "there is no picture gone"),
        (("edit", "RUN", "--image", "x.png", "--strength", "2"), "strength must lie in (0, 1]"),
        (("edit", "RUN", "--image", "x.png", "--steps", "21"), "1..20"),
        (
            ("edit", "RUN", "--image", "x.png", "--interpolate", "x.png", "--sampler", "ddpm"),
            "DDPM cannot be inverted",
        ),
    ],
)
def test_what_can_be_told_before_the_model_is_loaded(
    run_path,
    tmp_path,
    capsys,
    monkeypatch,
    command,
    message,
):
    def too_late(*args, **kwargs):
        raise AssertionError("the model was loaded before this was looked at")

    monkeypatch.setattr("nelbo.networks.UNet.from_pretrained", too_late)
    monkeypatch.chdir(tmp_path)
    Path("twice.txt").write_text("cat\ndog\ncat\n")
    Path("one.txt").write_text("cat\n")
    Path("full").mkdir()
    Path("full", "file").touch()
    Image.new("L", (8, 8)).save("x.png")
    before = snapshot(tmp_path)
    assert message in mistake(capsys, *(run_path if part == "RUN" else part for part in command))
    assert snapshot(tmp_path) == before


def test_a_report_of_what_does_not_fit_leaves_no_copy(run_path, tmp_path, capsys):
    out = tmp_path / "out"
    Image.new("RGB", (5, 5)).save(tmp_path / "small.png")
    mistake(capsys, "report", run_path, "--out", out, "--data", tmp_path)
    assert not out.exists()
    run = tmp_path / "run"
    shutil.copytree(run_path, run)
    (run / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    message = mistake(capsys, "report", run, "--out", out)
    assert "diffusion_pytorch_model.safetensors" in message
    assert not out.exists()


def test_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(NelboError, match=f"no permission to at {tmp_path}"):
        check_out(tmp_path / "new" / "x.csv")
    check_out(Path("new.csv"))


@pytest.mark.parametrize("command", ["evaluate", "rank", "fit", "compare", "likelihood"])
def test_interrupted(run_path, tmp_path, capsys, monkeypatch, command):
    """Ctrl-C in the middle of the work."""
    copy = tmp_path / "run"
    shutil.copytree(run_path, copy)
    before = snapshot(copy)
    out = tmp_path / "out"
    arguments = {
        "rank": ["rank", copy, "--out", out],
        "compare": ["compare", "digits", "--runs", copy, copy],
    }.get(command, [command, copy])
    calls = []

    def interrupt(self, x, *args):
        calls.append(len(x))
        raise KeyboardInterrupt

    monkeypatch.setattr("nelbo.networks.UNet.forward", interrupt)
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    assert exit_.value.code == 130
    assert calls
    printed = capsys.readouterr()
    assert printed.err.rstrip().splitlines()[-1] == "interrupted"
    assert printed.out == ""
    assert snapshot(copy) == before
    assert not [f for f in out.rglob("*") if f.suffix in (".csv", ".html")]


def ready(program: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python about to call nelbo that takes Ctrl-C, also where this suite has to ignore it."""
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += "from nelbo.__main__ import main; "
    command = [sys.executable, "-c", f"{start}print('up', flush=True); {program}", *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("seconds", [0.1, 2.5])
def test_interrupted_by_a_signal(run_path, seconds):
    """Wherever it falls: as modules are imported, or as the bound is read."""
    process = ready("main()", "evaluate", str(run_path), "--error", "0.00001")
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.rstrip().splitlines()[-1] == "interrupted"
    assert "Traceback" not in err


def test_interrupted_within_an_import(tmp_path):
    """What a library makes of an exception in its middle does not matter: it gets none."""
    (tmp_path / "library.py").write_text(
        """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    sum(range(1000))
except BaseException:
    raise SystemExit("seen within the import")
print("imported", flush=True)
"""
    )
    program = f"""
import sys, time
sys.path.insert(0, {str(tmp_path)!r})
import nelbo.cli
from nelbo.__main__ import main

def command_line():
    import library
    time.sleep(60)

nelbo.cli.main = command_line
main()
"""
    process = ready(f"exec({program!r})")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, "imported\n", "interrupted\n")


def test_interrupted_before_there_is_a_command_line(capsys, monkeypatch):
    """Ctrl-C while the program imports what it is made of."""

    class Interrupt:
        def find_spec(self, name, *args):
            if name == "nelbo.cli":
                raise KeyboardInterrupt

    script = tomllib.loads(PYPROJECT.read_text())["project"]["scripts"]["nelbo"]
    module, _, function = script.partition(":")
    start = getattr(importlib.import_module(module), function)
    monkeypatch.delitem(sys.modules, "nelbo.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupt(), *sys.meta_path])
    with pytest.raises(SystemExit) as exit_:
        start()
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_comparison_looks_at_both_runs_first(run_path, capsys, monkeypatch):
    def too_late(*args, **kwargs):
        raise AssertionError("one model was evaluated before both were looked at")

    monkeypatch.setattr("nelbo.commands.compare_runs.evaluate_with_progress", too_late)
    missing = ("compare", "digits", "--runs", run_path, "not-there")
    assert "no directory not-there" in mistake(capsys, *missing)
    one = ("compare", "digits", "--runs", run_path, run_path, "--images", "1")
    assert "at least 2 images, got 1" in mistake(capsys, *one)
