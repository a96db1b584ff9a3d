"""Help and usage errors answer without what a command computes with."""

from __future__ import annotations

import subprocess
import sys

from nelbo.cli import commands

PROGRAM = """
import contextlib, io, sys
from nelbo.cli import main

arguments, code, text = {arguments!r}, {code}, io.StringIO()
for given in arguments:
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            main(given)
            found = 0
        except SystemExit as stopped:
            found = stopped.code or 0
    assert found == code, (given, found, text.getvalue())
heavy = set(sys.modules) & {{"torch", "numpy", "matplotlib", "PIL", "safetensors", "yaml"}}
assert not heavy, heavy
print("light")
"""


def check_light(arguments: list[list[str]], code: int) -> None:
    program = PROGRAM.format(arguments=arguments, code=code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "light\n", done.stderr


def test_help_is_light():
    of_commands = [[name, "--help"] for name in commands()]
    of_kinds = [["train", "--model", kind, "--help"] for kind in ("latent", "autoencoder")]
    check_light([["--help"], ["--version"], *of_commands, *of_kinds], 0)


def test_usage_errors_are_light():
    check_light(
        [
            [],
            ["--unknown"],
            ["evaluat", "run"],
            *([name, "--unknown-option", "1"] for name in commands()),
            # DATA, RUN or --out is missing; the studio needs none.
            *([name] for name in commands() if name not in ("sample", "studio")),
            ["sample"],
            ["train", "digits", "--model", "pixels", "--out", "run"],
            ["train", "digits", "--out", "run", "--steps", "0"],
            ["train", "digits", "--out", "run", "--kl-weight", "1"],
            ["train", "digits", "--out", "run", "--preset", "fast"],
            ["train", "--resume", "--out", "no-run"],
            ["evaluate", "run", "--levels", "0"],
            ["evaluate", "run", "--precision", "fp8"],
            ["sample", "run", "--sampler", "eular"],
            ["sample", "run", "--prompt", "a", "--label", "b"],
            ["edit", "run", "--image", "x.png", "--frames", "3"],
            ["classify", "run", "--draws", "1"],
            ["export", "run", "--out", "new", "--checkpoint", "bets"],
        ],
        2,
    )


def test_no_garbage_is_searched_for_while_a_command_is_imported():
    program = """
import gc
from nelbo.cli import main

searched = []
gc.callbacks.append(lambda phase, info: searched.append(info["generation"]))
try:
    main(["evaluate", "no/run"])
except SystemExit as stopped:
    assert stopped.code == 2, stopped.code
assert gc.isenabled()
assert gc.get_freeze_count() > 100_000, gc.get_freeze_count()
assert 2 not in searched, searched
print("imported")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "imported\n", done.stderr
