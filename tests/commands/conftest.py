"""How small the runs are that the tests of the commands make."""

from __future__ import annotations

TINY = ["--widths", "8", "16", "--levels", "20", "--batch-size", "32"]
TINY += ["--threads", "1", "--precision", "fp32"]
