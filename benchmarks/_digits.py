"""The models of the digits that benchmarks measure, trained once where none is given."""

from __future__ import annotations

from pathlib import Path

from nelbo.cli import main

_RUNS = Path("runs")


def digits_run(path: str | None, *options: str) -> str:
    """The run at `path`, or one that is trained for two minutes and kept in runs/."""
    if path is not None:
        return path
    run = _RUNS / "-".join(("benchmark", "digits", *(o.lstrip("-") for o in options)))
    if not (run / "report.html").exists():
        main(
            ["train", "digits", "--out", str(run), "--time-budget", "120s", "--overwrite", *options]
        )
    return str(run)
