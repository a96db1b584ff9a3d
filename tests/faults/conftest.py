"""A small run that was never broken, to compare others with."""

from __future__ import annotations

from pathlib import Path

import pytest

from nelbo.cli import main
from tests.conftest import reports

STEPS = 40
TINY = ["--widths", "8", "--layers", "1", "--levels", "6", "--batch-size", "8"]
EXACT = ["--threads", "1", "--precision", "fp32", "--warmup-steps", "5"]
OFTEN = ["--save-every", "0.05s", "--keep-checkpoints", "3"]
BRIEF = ["--evaluate-images", "4", "--evaluate-levels", "1"]
COMMAND = ["train", "digits", *TINY, *EXACT, *OFTEN, *BRIEF]


@pytest.fixture(scope="package")
def unbroken(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("killed") / "unbroken"
    with reports(False):
        main([*COMMAND, "--out", str(out), "--steps", str(STEPS)])
    return out
