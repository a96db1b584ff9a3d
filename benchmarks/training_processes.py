"""Two training processes against one at the same global batch, on two cores.

    python benchmarks/training_processes.py [--json FILE] [--seconds 15]

Trains on digits with a batch of 128 for a number of seconds, with one process and under
`torch.distributed.run` with two, one thread each, and prints the ratio of their steps a second. Two
free cores are needed to learn anything from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table


def steps_a_second(count: int, seconds: float) -> float:
    """Steps a second of a run with a number of processes."""
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command = [
            *([sys.executable] if count == 1 else [sys.executable, *launcher]),
            *("-m", "nelbo", "train", "digits", "--out", str(run), "--batch-size", "128"),
            *("--time-budget", f"{seconds}s", "--threads", "1", "--precision", "fp32"),
            *("--evaluate-images", "1", "--evaluate-levels", "1"),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        return last["step"] / last["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each run")
    arguments = parser.parse_args()
    table = Table(title="Training on digits, global batch 128, one thread a process")
    for column in ("processes", "steps a second", "ratio"):
        table.add_column(column, justify="right")
    rates = []
    for count in (1, 2):
        rates.append(steps_a_second(count, arguments.seconds))
        table.add_row(str(count), f"{rates[-1]:.2f}", f"{rates[-1] / rates[0]:.2f}")
    Console().print(table)
    if arguments.json:
        figures = {"steps_per_second": rates, "ratio": rates[1] / rates[0]}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
