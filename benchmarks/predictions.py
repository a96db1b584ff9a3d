"""What a network predicts, and which network: bits/dim of the digits after the same time.

    python benchmarks/predictions.py --out DIR [--time-budget 120s | --steps N] [--seeds 0 1 2]
        [--networks unet dit] [--predictions epsilon v_prediction velocity denoiser] [--error E]

Every cell is `nelbo train digits --network N --prediction P --seed S` on one thread, all else as by
default, so that chain and objective are the same. The first run of each network, ε and seed 0, has
--time-budget and the width that nelbo chooses for it; the others take its width and its number of
steps, for what a network predicts does not change what a step takes, and what else the machine does
would. With --steps each takes as many steps with the width that suits the image size. The bound is
of the validation and of the test split, to a Monte Carlo error of --error. A run that is there is
read and one that was broken off is resumed: the benchmark goes on where it was interrupted, and the
tables are of what is there. Standard errors are of the mean over seeds where there are several,
otherwise over images alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import yaml

from nelbo.cli import main as nelbo

NETWORKS = ("unet", "dit")
PREDICTIONS = ("epsilon", "v_prediction", "velocity")
ALL = (*PREDICTIONS, "sample", "denoiser")
SPLITS = ("validation", "test")
# The bound is read afterwards: no time for a report.
LITTLE = [
    *("--evaluate-levels", "1", "--evaluate-images", "2"),
    *("--sample-images", "4", "--sample-steps", "4", "--threads", "1"),
]


def found(run: Path, split: str) -> dict[str, Any] | None:
    """What `nelbo evaluate` printed of a split, once a run has it."""
    file = run / f"{split}.json"
    return json.loads(file.read_text()) if file.exists() else None


def train(run: Path, options: list[str], length: list[str], first: Path) -> None:
    """Train a run, or go on with it."""
    if (run / "training").exists():
        nelbo(["train", "--resume", "--out", str(run)])
        return
    if length[0] == "--time-budget" and run != first:
        widths = yaml.safe_load((first / "config.yaml").read_text())["model"]["widths"]
        steps = json.loads((first / "nelbo.json").read_text())["trained"]["steps"]
        length = ["--steps", str(steps), "--widths", *map(str, widths)]
    nelbo(["train", "digits", "--out", str(run), *options, *length, *LITTLE])


def evaluate(run: Path, split: str, error: float) -> None:
    """The bound of a split."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        nelbo(["evaluate", str(run), "--split", split, "--error", str(error), "--json"])
    (run / f"{split}.json").write_text(printed.getvalue())


def cell(read: list[dict[str, Any]]) -> str:
    """Mean and standard error over seeds, or over the images of a single run."""
    if not read:
        return "-"
    totals = [one["bits_per_dim"]["total"] for one in read]
    means, error = [total["mean"] for total in totals], totals[0]["standard_error"]
    if len(means) > 1:
        error = statistics.stdev(means) / math.sqrt(len(means))
    return f"{statistics.mean(means):.3f} ± {error:.3f} ({len(means)})"


def show(runs: dict[tuple[str, str, int], Path], networks: list[str], kinds: list[str]) -> None:
    """A table of each split."""
    for split in SPLITS:
        print(f"\n{split:10s}" + "".join(f"{name:>24s}" for name in kinds))
        for network in networks:
            row = f"{network:10s}"
            for kind in kinds:
                of = [run for key, run in runs.items() if key[:2] == (network, kind)]
                row += f"{cell([r for run in of if (r := found(run, split))]):>24s}"
            print(row, flush=True)


def main() -> None:
    """Train what is missing, and print the table after each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--time-budget", default="120s")
    parser.add_argument("--steps", type=int, help="in place of the time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--predictions", nargs="+", choices=ALL, default=PREDICTIONS)
    parser.add_argument("--error", type=float, default=0.007)
    arguments = parser.parse_args()
    length = ["--time-budget", arguments.time_budget]
    if arguments.steps is not None:
        length = ["--steps", str(arguments.steps)]
    cells = list(itertools.product(arguments.networks, arguments.predictions))
    runs = {
        (network, prediction, seed): arguments.out / f"{network}-{prediction}-{seed}"
        for seed in arguments.seeds
        for network, prediction in cells
    }
    for (network, prediction, seed), run in runs.items():
        options = ["--network", network, "--prediction", prediction, "--seed", str(seed)]
        if not all(found(run, split) for split in SPLITS):
            train(run, options, length, arguments.out / f"{network}-{PREDICTIONS[0]}-0")
            for split in SPLITS:
                evaluate(run, split, arguments.error)
    show(runs, arguments.networks, arguments.predictions)


if __name__ == "__main__":
    main()
