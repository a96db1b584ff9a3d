"""A small trained run that the tests of the commands read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nelbo.cli import main
from nelbo.commands.training import allowance

TINY = ["--widths", "8", "16", "--levels", "20", "--batch-size", "32"]


@pytest.fixture(scope="package")
def run_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "digits"
    main(["train", "digits", "--out", str(path), "--steps", "12", *TINY])
    return path


@pytest.fixture(scope="module")
def brief_end() -> Iterator[None]:
    """What follows training may take 2 s in place of 20, in tests that do not look at its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allowance, "LEAST", 2.0)
        yield
