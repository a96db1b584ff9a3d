"""A small trained run that the tests of the commands read."""

from __future__ import annotations

from pathlib import Path

import pytest

from nelbo.cli import main

TINY = ["--widths", "8", "16", "--levels", "20", "--batch-size", "32"]


@pytest.fixture(scope="package")
def run_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "digits"
    main(["train", "digits", "--out", str(path), "--steps", "12", *TINY])
    return path
