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

from nelbo.cli import main
from nelbo.commands.options import check_out
from nelbo.errors import NelboError
from tests.commands.conftest import run_path  # noqa: F401 - a fixture
from tests.faults.test_mistakes import mistake, snapshot

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_where_nothing_can_be_written(run_path, tmp_path, capsys, monkeypatch):  # noqa: F811
    def too_late(*args, **kwargs):
        raise AssertionError("the model was loaded before the output was looked at")

    monkeypatch.setattr("nelbo.diffusers_format.load", too_late)
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


def test_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(NelboError, match=f"no permission to at {tmp_path}"):
        check_out(tmp_path / "new" / "x.csv")
    check_out(Path("new.csv"))


@pytest.mark.parametrize("command", ["evaluate", "rank", "fit", "compare", "likelihood"])
def test_interrupted(run_path, tmp_path, capsys, monkeypatch, command):  # noqa: F811
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


def test_interrupted_by_a_signal(run_path, tmp_path):  # noqa: F811
    command = [sys.executable, "-m", "nelbo", "evaluate", str(run_path), "--error", "0.00001"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    time.sleep(0.3)  # anywhere: as python starts, imports or evaluates
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert "NelboError" not in err


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


def test_a_comparison_looks_at_both_runs_first(run_path, capsys, monkeypatch):  # noqa: F811
    def too_late(*args, **kwargs):
        raise AssertionError("one model was evaluated before both were looked at")

    monkeypatch.setattr("nelbo.commands.compare.evaluate_with_progress", too_late)
    missing = ("compare", "digits", "--runs", run_path, "not-there")
    assert "no directory not-there" in mistake(capsys, *missing)
    one = ("compare", "digits", "--runs", run_path, run_path, "--images", "1")
    assert "at least 2 images, got 1" in mistake(capsys, *one)
